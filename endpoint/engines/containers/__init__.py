"""Workers in containers: the commands of the runtimes, what is mounted, and where engine and worker meet."""
