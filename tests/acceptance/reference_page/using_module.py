from pathlib import Path
from headrace.sdk import Executor

other_module_code = Path("module.py").read_text()

function_id = Executor().register_source_code(
  other_module_code, function_name="array_stats"
)
# function_id is a UUID, eg a8cfa586-d8ff-489f-bf77-e62f3d0ffa1a
