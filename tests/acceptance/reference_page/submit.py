from headrace.sdk import Executor

def string_stats(string):
  return {
    "length": len(string),
    "uppercase": string.upper(),
    "lowercase": string.lower()
  }

string = "Hello, Compute!"

with Executor(endpoint_id) as gcx:
  future = gcx.submit(string_stats, string)
  print(future.result())
