"""The one tree of errors. Whoever raises names the field, the value and the way out.

    SlipstreamError
      InputError         what the caller gave cannot be used (an option, a request field, a file)
        CheckpointError  a model folder or tensor is missing, extra or mis-shaped
      CapacityError      it would not fit: memory, context length, queue
      BackendError       the device or the native module failed
"""


class SlipstreamError(Exception):
    """Base of every error that Slipstream raises on purpose."""


class InputError(SlipstreamError, ValueError):
    """An option, field, prompt or file that cannot be used as given."""


class CheckpointError(InputError):
    """A checkpoint whose tensors or config do not describe the model."""


class CapacityError(SlipstreamError):
    """Something does not fit into memory, context or queue."""


class BackendError(SlipstreamError, RuntimeError):
    """A device or kernel backend failed or is not available."""
