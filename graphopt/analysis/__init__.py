"""Facts about modules: the numpy interpreter, cost counts, shape binding."""
