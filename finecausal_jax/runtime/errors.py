"""The error for what a user gave and can mend; anything else is a fault of the code."""


class InputError(ValueError):
    """A file, a config, a flag or a machine cannot be used as it is, and a user can mend that.

    Its text is written for that user: it names the file or the field, what was expected, what was
    found and how to mend it. Commands print the text alone and end with code 2. Every other
    exception keeps its traceback, a ValueError too: it was not written for a user.
    """
