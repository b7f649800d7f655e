"""Errors that the user can mend."""


class ExpcamError(Exception):
    """Base of all errors that expcam raises on purpose; the message is one line."""


class ImageError(ExpcamError):
    """The image cannot be read or does not fit the classifier."""


class ClassifierError(ExpcamError):
    """The classifier cannot be loaded or does not behave as one."""


class WiringError(ClassifierError):
    """Channels cannot be followed through the classifier; the message says where."""


class TargetError(ExpcamError):
    """The class asked for does not exist."""


class OptionError(ExpcamError):
    """An option has a value that it cannot have."""


class CircuitError(OptionError):
    """No set of channels does what is asked of a circuit."""


class FileFormatError(ExpcamError):
    """A file cannot be written, or is not what it should be."""


class ExpcamWarning(UserWarning):
    """Something was not done as asked or expected; the text says what was done."""
