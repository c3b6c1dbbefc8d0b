from headrace.sdk import Executor

# define
def array_stats(array):
  import numpy as np

  array = np.array(array)
  mean = np.mean(array)
  std = np.std(array)
  return { "mean": mean, "std": std }

# register
function_id = Executor().register_function(array_stats)
# function_id is a UUID, eg eca16448-bfe2-445a-900c-cd46b1426522
