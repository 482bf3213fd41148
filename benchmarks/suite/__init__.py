"""The asv benchmark suite. `cases` defines and prepares what is measured; the modules beside it hold thin asv classes.

asv imports every module here, as the package `suite`, in an environment that holds torch, the package under test and
nothing else. The modules therefore use relative imports, torch and the standard library only.
"""
