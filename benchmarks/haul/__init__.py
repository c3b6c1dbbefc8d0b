"""The long haul: what a task costs as there is more and more of everything."""
