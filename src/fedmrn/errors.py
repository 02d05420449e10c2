"""Every error fedmrn raises on purpose: one type for each cause.

Two families. A `UsageError` is a person's mistake (a misspelt option, a missing file); its message says what is
wrong, where, and how to fix it, and the command line ends with exit code 2. A `FrameError` is a fault in bytes that
came from outside; whoever receives the bytes drops them and goes on, and nothing else has changed.
"""


class FedmrnError(Exception):
    """The root of all errors raised on purpose."""


class UsageError(FedmrnError):
    """The caller asked for something that cannot be done; the message says how to ask for it."""


class ConfigError(UsageError):
    """A configuration is wrong: an unknown key, a value out of range, values that contradict each other."""


class DataError(UsageError):
    """A data file is missing, damaged or not what its name says."""


class RunError(UsageError):
    """A run folder cannot be used as asked: it holds another configuration, or its checkpoint is damaged."""


class UnsupportedModelError(UsageError):
    """A model or an optimiser cannot be trained as asked; the message names the tensor or the option."""


class RoundOrderError(UsageError):
    """A round is begun that is over, or ended when the server has gone on: its updates belong to an older state."""


class ServerRefusedError(UsageError):
    """A federation's server refused a client's request: a wrong token, or an answer that does not fit."""


class WorkerError(FedmrnError):
    """A process that trains clients ended without an answer."""


class EncodeError(FedmrnError):
    """A vector cannot be encoded: it is not finite, or not of the shape that the layout says."""


class FrameError(FedmrnError):
    """Bytes from outside were refused. Each cause has its own subclass."""


class TruncatedFrameError(FrameError):
    """The bytes end before the frame does."""


class TrailingBytesError(FrameError):
    """Bytes follow the end of the frame."""


class BadMagicError(FrameError):
    """The bytes are not a fedmrn frame."""


class UnsupportedVersionError(FrameError):
    """The frame is of a version that this library does not read."""


class ChecksumError(FrameError):
    """The checksum does not match: the bytes were damaged on the way."""


class LimitError(FrameError):
    """The frame declares more than the limits allow: too many bytes, sections, elements, or too large a weight."""


class MalformedFrameError(FrameError):
    """Fields of the frame contradict each other or hold values outside their range."""


class UnknownCodecError(FrameError):
    """A section names a codec that is not in the registry."""


class UnknownTermError(FrameError):
    """A broadcast tells something that this version does not know, and that must not be ignored."""


class PaddingError(FrameError):
    """Unused bits of the last byte are not zero, so the encoding is not the canonical one."""


class NonFiniteError(FrameError):
    """A dense section holds NaN or infinity."""


class BoundError(FrameError):
    """A dense value is larger than the bound fixed at the start of the round."""


class WrongKindError(FrameError):
    """An update was expected and a broadcast came, or the reverse."""


class WrongMethodError(FrameError):
    """The frame was made by another method than the round's."""


class MethodNotAcceptedError(FrameError):
    """A broadcast is of a method that this client has not said it is willing to send; the message says how to."""


class WrongTemplateError(FrameError):
    """A broadcast asks for a code that its method does not send, or for side data in a form that none has."""


class WrongRoundError(FrameError):
    """The frame belongs to another round."""


class WrongLayoutError(FrameError):
    """The frame was made for a model with other tensors."""


class WrongKeyError(FrameError):
    """The frame was made with another noise key than the one that this client was sent."""


class WrongParametersError(FrameError):
    """The sections differ from those that the broadcast asked for: codec, parameters, group or length."""


class DuplicateFrameError(FrameError):
    """This client's frame was folded already."""


class UnknownClientError(FrameError):
    """The frame comes from a client that was not asked in this round."""


class LostModelError(FrameError):
    """A broadcast holds what changed since a public model that this client does not hold, or holds otherwise.

    The server is told by this error's name, and sends the whole model next time.
    """


class WrongStartError(FrameError):
    """The server counts from starting weights that this client does not have."""


class WrongMessageError(FrameError):
    """A message of the transport does not carry one frame in the form agreed upon."""


class LateAnswerError(FrameError):
    """An answer of a secure sum came after its stage was closed: taken now, it could be opened."""


class UntrustedKeyError(FrameError):
    """A client's keys are not signed as they must be, stand twice, or make no secret."""


class WrongShareError(FrameError):
    """A share of a secret is missing, does not open, or does not give the secret that was committed to."""


class RefusedRevealError(FrameError):
    """A server asked a client for what would open another one's update: both of its secrets, or too small a sum."""


class EmptyRoundError(FedmrnError):
    """No frame was folded, so there is no mean."""


class BelowThresholdError(EmptyRoundError):
    """Fewer clients stayed than a secure sum needs: the round is lost, and the old model stays."""


class UnusableModelError(FedmrnError):
    """A round would leave a model with a value that is not finite, or a negative variance; the old model stays."""


class NoUpdatesError(EmptyRoundError):
    """Several rounds in a row had no update to fold, and the run was ended; the message says what came instead."""
