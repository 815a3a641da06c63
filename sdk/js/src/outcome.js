// What a plugin's function answers when an event does not go on.

export class Outcome {
  constructor(kind, code) {
    this.kind = kind;
    this.code = code;
  }
}
