"""What can go wrong, told apart by what it spoils; the messages are for a person."""


class MeasurementError(Exception):
    """This row has no honest figure: a process failed, or was not served as it should have been."""


class TargetError(Exception):
    """Nothing can be measured with this interpreter."""
