//! Which part of a cluster a key lies in (Redis Cluster specification, "Key distribution model").

use std::borrow::Cow;

use redis::Cmd;

pub(super) const SLOTS: u16 = 16384;

/// CRC16/XMODEM, a byte at a time: tokens in key names are long.
#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler, which would refuse it")]
const TABLE: [u16; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut crc = (index as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
};

/// The first text in braces, if it is not empty.
fn tag_in(key: &[u8]) -> Option<&[u8]> {
    let open = key.iter().position(|byte| *byte == b'{')?;
    let after = key.get(open + 1..)?;
    let close = after.iter().position(|byte| *byte == b'}').filter(|close| *close > 0)?;
    after.get(..close)
}

/// Of a key with a hash tag the tag alone counts.
pub(super) fn slot_of(key: &[u8]) -> u16 {
    let crc = tag_in(key).unwrap_or(key).iter().fold(0_u16, |crc, byte| {
        let index = usize::from(crc.to_be_bytes()[0] ^ byte);
        (crc << 8) ^ TABLE.get(index).copied().unwrap_or_default()
    });
    crc % SLOTS
}

/// Where a command goes; `None`: it names no key. A script's keys lie in one slot, or Redis refuses it.
pub(super) fn slot_of_command(command: &Cmd) -> Option<u16> {
    let word = |index| match command.args_iter().nth(index) {
        Some(redis::Arg::Simple(word)) => Some(word),
        _ => None,
    };
    let name = word(0)?.to_ascii_uppercase();
    let key = match name.as_slice() {
        b"EVAL" | b"EVALSHA" if word(2)? != b"0" => word(3)?,
        b"EVAL" | b"EVALSHA" | b"INFO" | b"SCAN" | b"SCRIPT" | b"CLIENT" | b"CONFIG" => return None,
        _ => word(1)?,
    };
    Some(slot_of(key))
}

/// The first number that lies in this slot, to be used as a hash tag.
pub(super) fn tag_of(slot: u16) -> String {
    // Every slot has one well below this end.
    (0..10_000_000_u32).map(|n| n.to_string()).find(|tag| slot_of(tag.as_bytes()) == slot).unwrap_or_default()
}

/// A name that lies where the key does, whatever is put before or behind it that has no braces.
pub(super) fn beside(key: &str) -> Cow<'_, str> {
    if tag_in(key.as_bytes()).is_some() {
        key.into()
    } else if !key.contains('}') {
        format!("{{{key}}}").into()
    } else {
        // In braces it would end too early.
        format!("{{{}}}{key}", tag_of(slot_of(key.as_bytes()))).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(slot_of(b"123456789"), 0x31C3);
        assert_eq!(slot_of(b"foo"), 12182);
        assert_eq!(slot_of(b"{user1000}.following"), slot_of(b"user1000"));
        assert_eq!(slot_of(b"foo{}{bar}"), slot_of(b"foo{}{bar}"));
        assert_ne!(slot_of(b"foo{}{bar}"), slot_of(b"bar"), "an empty tag is none");
        assert_eq!(slot_of(b"foo{{bar}}zap"), slot_of(b"{bar"));
        assert_eq!(slot_of(b"foo{bar}{zap}"), slot_of(b"bar"));
    }

    #[test]
    fn every_slot_has_a_tag() {
        for slot in [0, 1, 5460, 5461, 10922, 10923, SLOTS - 1] {
            assert_eq!(slot_of(format!("pc:ground:{{{}}}", tag_of(slot)).as_bytes()), slot);
        }
    }

    #[test]
    fn a_command_goes_where_its_key_lies() {
        let of = |words: &[&str]| {
            let mut command = Cmd::new();
            words.iter().for_each(|word| {
                command.arg(*word);
            });
            slot_of_command(&command)
        };
        assert_eq!(of(&["GET", "foo"]), Some(12182));
        assert_eq!(of(&["eval", "return 1", "2", "foo", "{foo}"]), Some(12182));
        assert_eq!(of(&["EVAL", "return 1", "0"]), None);
        assert_eq!(of(&["INFO", "server"]), None);
        assert_eq!(of(&["PING"]), None);
    }
}
