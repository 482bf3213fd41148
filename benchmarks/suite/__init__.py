"""What asv measures. `cases` says what is measured and prepares it; the modules beside it hold thin asv classes.

asv imports every module here, as the package `suite`, in an environment that holds torch, the package under test and
nothing else. So the modules import each other relatively, and otherwise only torch and the standard library.
"""
