// Why a frame is refused: one class per cause, named as in docs/wire-format.md, section 7.

export class FrameError extends Error {
  constructor(message) {
    super(message);
    this.name = new.target.name;
  }
}

export class BadMagicError extends FrameError {}
export class TruncatedFrameError extends FrameError {}
export class UnsupportedVersionError extends FrameError {}
export class LimitError extends FrameError {}
export class TrailingBytesError extends FrameError {}
export class MalformedFrameError extends FrameError {}
export class ChecksumError extends FrameError {}
export class WrongKindError extends FrameError {}
export class WrongMethodError extends FrameError {}
export class MethodNotAcceptedError extends FrameError {}
export class WrongRoundError extends FrameError {}
export class WrongKeyError extends FrameError {}
export class WrongParametersError extends FrameError {}
export class WrongLayoutError extends FrameError {}
export class WrongTemplateError extends FrameError {}
export class UnknownCodecError extends FrameError {}
export class UnknownTermError extends FrameError {}
export class NonFiniteError extends FrameError {}
export class BoundError extends FrameError {}
export class PaddingError extends FrameError {}
export class WrongStartError extends FrameError {}
export class LostModelError extends FrameError {}

/** A layout file that does not say what a model is made of. */
export class LayoutError extends Error {
  constructor(message) {
    super(message);
    this.name = "LayoutError";
  }
}

/** Throw an error unless a condition holds. */
export function require(condition, ErrorClass, message) {
  if (!condition) throw new ErrorClass(message);
}
