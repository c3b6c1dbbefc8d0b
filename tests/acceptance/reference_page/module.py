import numpy as np

def array_stats(array):
  array = np.array(array)
  mean = np.mean(array)
  std = np.std(array)
  return { "mean": mean, "std": std }
