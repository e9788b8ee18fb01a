class BuildError(RuntimeError): pass
LIBRARIES: dict = {}
