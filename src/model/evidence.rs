//! What was sent, refused, answered and seen: the input of the judge.
