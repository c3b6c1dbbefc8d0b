"""Functions as data: their code, the modules and packages that travel with them, who may run them where."""
