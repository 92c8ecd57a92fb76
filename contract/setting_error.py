"""`SettingError`, apart from the settings: `neuron --help` and completion know it and load none of them."""


class SettingError(ValueError):
    """A process cannot run with these settings."""
