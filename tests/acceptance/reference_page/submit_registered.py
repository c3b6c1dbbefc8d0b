from headrace.sdk import Executor

endpoint_id = "<some endpoint UUID>"
array_stats_function_id = "<the function ID from the previous example>"

array = [1, 2, 3, 4, 5]

with Executor(endpoint_id) as gcx:
  future = gcx.submit_to_registered_function(
    array_stats_function_id, array
  )
  print(future.result())
