//! The frames of a WebSocket (RFC 6455 section 5.2) as they go out: where one ends, and whether the last was sent.

/// The close frame, without a mask as from a server (RFC 6455 section 5.5.1).
pub(super) fn close(code: u16, reason: &str) -> Vec<u8> {
    // A control frame holds 125 bytes, two of them the code.
    let end = (0..=reason.len().min(123)).rev().find(|end| reason.is_char_boundary(*end)).unwrap_or(0);
    let reason = reason.get(..end).unwrap_or_default().as_bytes();
    let length = u8::try_from(reason.len() + 2).unwrap_or(2);
    let mut frame = vec![FIN | CLOSE, length];
    frame.extend(code.to_be_bytes());
    frame.extend(reason);
    frame
}

const FIN: u8 = 0x80;
const CLOSE: u8 = 0x8;
/// Of the second byte: whether a mask of four bytes follows, and a length or how it is said.
const MASK: u8 = 0x80;
const LENGTH: u8 = 0x7f;
/// Two bytes, a length of eight, a mask of four.
const LONGEST: usize = 14;

/// How an answer begins that switches, whatever its minor version.
const SWITCHING: &[u8; 12] = b"HTTP/1.1 101";
const END: &[u8; 4] = b"\r\n\r\n";

/// Follows what is sent from the head of an answer on.
#[derive(Debug, Default)]
pub(super) struct Frames {
    place: Place,
    closed: bool,
}

#[derive(Debug)]
enum Place {
    /// In the head of an answer, which may be an interim one: its first bytes, and how much of its end was seen.
    Answer { begin: [u8; SWITCHING.len()], seen: usize, end: usize },
    /// Between two frames, or in the head of one.
    Head { bytes: [u8; LONGEST], filled: usize },
    /// So many bytes before the next.
    Payload(u64),
}

impl Default for Place {
    fn default() -> Self {
        Self::Answer { begin: [0; SWITCHING.len()], seen: 0, end: 0 }
    }
}

impl Place {
    const BETWEEN: Self = Self::Head { bytes: [0; LONGEST], filled: 0 };
}

impl Frames {
    /// Whether a close frame may be sent now: between two frames, also those of one message (RFC 6455 section 5.4), and
    /// only if none was sent (section 5.5.1).
    pub(super) fn may_be_closed(&self) -> bool {
        matches!(self.place, Place::Head { filled: 0, .. }) && !self.closed
    }

    /// Takes note of what was sent.
    pub(super) fn follow(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            match &mut self.place {
                Place::Payload(left) => {
                    let skipped = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= skipped as u64;
                    if *left == 0 {
                        self.place = Place::BETWEEN;
                    }
                    bytes = bytes.get(skipped..).unwrap_or_default();
                }
                Place::Answer { begin, seen, end } => {
                    if let Some(place) = begin.get_mut(*seen) {
                        *place = *first;
                        *seen += 1;
                    }
                    *end = match END.get(*end) {
                        Some(expected) if expected == first => *end + 1,
                        _ => usize::from(*first == b'\r'),
                    };
                    if *end == END.len() {
                        let switches = begin.starts_with(b"HTTP/1.") && begin.ends_with(b" 101");
                        self.place = if switches { Place::BETWEEN } else { Place::default() };
                    }
                    bytes = rest;
                }
                Place::Head { bytes: head, filled } => {
                    if let Some(place) = head.get_mut(*filled) {
                        *place = *first;
                        *filled += 1;
                    }
                    if let Some(payload) = payload(head, *filled) {
                        self.closed |= head.first().is_some_and(|first| first & 0xf == CLOSE);
                        self.place = if payload == 0 { Place::BETWEEN } else { Place::Payload(payload) };
                    }
                    bytes = rest;
                }
            }
        }
    }
}

/// How long the payload of a frame is; `None` while its head is not whole.
fn payload(head: &[u8; LONGEST], filled: usize) -> Option<u64> {
    let [_, second, extended @ ..] = head;
    let said = second & LENGTH;
    let bytes = match said {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let mask = if second & MASK == 0 { 0 } else { 4 };
    if filled < 2 + bytes + mask {
        return None;
    }
    let length = extended.iter().take(bytes).fold(0_u64, |length, byte| length << 8 | u64::from(*byte));
    Some(if bytes == 0 { u64::from(said) } else { length })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &[u8] = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n\
        HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n";

    fn frame(first: u8, length: usize, masked: bool) -> Vec<u8> {
        let mask = if masked { MASK } else { 0 };
        let mut frame = match length {
            0..126 => vec![first, length as u8 | mask],
            126..65_536 => [&[first, 126 | mask][..], &(length as u16).to_be_bytes()].concat(),
            _ => [&[first, 127 | mask][..], &(length as u64).to_be_bytes()].concat(),
        };
        frame.extend(std::iter::repeat_n(FIN | CLOSE, length + if masked { 4 } else { 0 }));
        frame
    }

    #[test]
    fn frames_end_where_they_end_however_the_bytes_are_cut() {
        let frames = [
            HEAD.to_vec(),
            frame(0x01, 5, false),
            frame(0x80, 126, false),
            frame(0x82, 70_000, false),
            frame(0x89, 0, false),
        ];
        // A mask is a part of the frame whose head says so, but no server sends one.
        let all = frames.concat();
        let ends: Vec<usize> = frames
            .iter()
            .scan(0, |at, frame| {
                *at += frame.len();
                Some(*at)
            })
            .collect();
        for size in [1, 2, 3, 7, 13, 1000, 65_536] {
            let (mut followed, mut at) = (Frames::default(), 0);
            for piece in all.chunks(size) {
                followed.follow(piece);
                at += piece.len();
                assert_eq!(followed.may_be_closed(), ends.contains(&at), "{at} in pieces of {size}");
            }
        }
    }

    #[test]
    fn after_a_close_frame_there_is_no_other() {
        let mut frames = Frames::default();
        frames.follow(HEAD);
        assert!(frames.may_be_closed());
        frames.follow(&frame(FIN | CLOSE, 2, false));
        assert!(!frames.may_be_closed());
    }

    #[test]
    fn a_masked_frame_is_as_long_as_its_head_says() {
        let mut frames = Frames::default();
        frames.follow(HEAD);
        let masked = frame(0x82, 300, true);
        frames.follow(&masked[..masked.len() - 1]);
        assert!(!frames.may_be_closed());
        frames.follow(&masked[masked.len() - 1..]);
        assert!(frames.may_be_closed());
    }

    #[test]
    fn a_reason_that_is_too_long_is_cut_between_two_characters() {
        assert_eq!(close(1008, "user_banned"), [&[0x88, 13, 0x03, 0xf0][..], b"user_banned"].concat());
        let long = close(1008, &"ä".repeat(100));
        assert_eq!((long.len(), long[1]), (2 + 2 + 122, 124));
        assert!(std::str::from_utf8(&long[4..]).is_ok());
    }
}
