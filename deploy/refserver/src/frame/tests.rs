use proptest::prelude::*;

use super::*;

/// What a sink was given, owned.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Got {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>),
}

impl From<Incoming<'_>> for Got {
    fn from(frame: Incoming<'_>) -> Self {
        match frame {
            Incoming::Text(text) => Self::Text(text.into()),
            Incoming::Binary(bytes) => Self::Binary(bytes.into()),
            Incoming::Ping(bytes) => Self::Ping(bytes.into()),
            Incoming::Pong(bytes) => Self::Pong(bytes.into()),
            Incoming::Close(code) => Self::Close(code),
        }
    }
}

/// A client's frame, written from RFC 6455 section 5.2 without the code under test.
fn client_frame(first: u8, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        length @ 0..=125 => bytes.push(0x80 | u8::try_from(length).unwrap()),
        length @ 126..=65_535 => {
            bytes.push(0x80 | 126);
            bytes.extend(u16::try_from(length).unwrap().to_be_bytes());
        }
        length => {
            bytes.push(0x80 | 127);
            bytes.extend((length as u64).to_be_bytes());
        }
    }
    bytes.extend(mask);
    bytes.extend(payload.iter().enumerate().map(|(index, byte)| byte ^ mask[index % 4]));
    bytes
}

/// Feeds `pieces` one after another.
fn decode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<Got>, Violation> {
    let mut decoder = Decoder::default();
    let mut got = Vec::new();
    for piece in pieces {
        decoder.feed(&mut piece.to_vec(), &mut |frame| {
            got.push(frame.into());
            ControlFlow::Continue(())
        })?;
    }
    Ok(got)
}

fn code_of(bytes: &[u8]) -> u16 {
    decode([bytes]).expect_err("it is a violation").code
}

#[test]
fn the_example_of_the_rfc_is_read() {
    // RFC 6455 section 5.7: a masked "Hello", then "Hel" and "lo" as fragments.
    let whole = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    assert_eq!(decode([&whole[..]]), Ok(vec![Got::Text("Hello".into())]));
    let mut fragments = client_frame(0x01, b"Hel", [1, 2, 3, 4]);
    fragments.extend(client_frame(0x89, b"in between", [0; 4]));
    fragments.extend(client_frame(0x80, b"lo", [9, 8, 7, 6]));
    let expected = vec![Got::Ping(b"in between".to_vec()), Got::Text("Hello".into())];
    assert_eq!(decode([&fragments[..]]), Ok(expected));
}

#[test]
fn every_length_form_survives_at_its_boundaries() {
    for length in [0, 1, 125, 126, 127, 65_535, 65_536, 65_537] {
        let payload = vec![b'x'; length];
        let bytes = client_frame(0x81, &payload, [7, 0, 255, 1]);
        let expected = Got::Text(String::from_utf8(payload).unwrap());
        assert_eq!(decode([&bytes[..]]), Ok(vec![expected.clone()]), "{length}");
        for end in [1, 2, 3, 4, 6, 8, 10, 13, bytes.len() - 1] {
            let (head, tail) = bytes.split_at(end.min(bytes.len()));
            assert_eq!(decode([head, tail]), Ok(vec![expected.clone()]), "{length} split at {end}");
        }
    }
}

#[test]
fn every_violation_has_its_close_code() {
    let mask = [1, 2, 3, 4];
    let unmasked = [0x81, 0x02, b'h', b'i'];
    let long_form_of_short = [0x81, 0xFE, 0, 5, 0, 0, 0, 0, 1, 2, 3, 4, 5];
    let longer_form_of_medium = [0x81, 0xFF, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0];
    let highest_bit = [0x82, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let nested = [client_frame(0x01, b"a", mask), client_frame(0x81, b"b", mask)].concat();
    for (bytes, code) in [
        (unmasked.to_vec(), 1002),
        (client_frame(0xC1, b"hi", mask), 1002),
        (client_frame(0x83, b"", mask), 1002),
        (client_frame(0x8B, b"", mask), 1002),
        (client_frame(0x09, b"", mask), 1002),
        (client_frame(0x89, &[0; 126], mask), 1002),
        (client_frame(0x80, b"", mask), 1002),
        (nested, 1002),
        (long_form_of_short.to_vec(), 1002),
        (longer_form_of_medium.to_vec(), 1002),
        (highest_bit.to_vec(), 1002),
        (client_frame(0x88, &[3], mask), 1002),
        (client_frame(0x88, &999_u16.to_be_bytes(), mask), 1002),
        (client_frame(0x88, &1005_u16.to_be_bytes(), mask), 1002),
        (client_frame(0x88, &1006_u16.to_be_bytes(), mask), 1002),
        (client_frame(0x88, &[3, 0xE8, 0xFF], mask), 1007),
        (client_frame(0x81, &[0xFF], mask), 1007),
        (client_frame(0x81, &[0xE2, 0x82], mask), 1007),
    ] {
        assert_eq!(code_of(&bytes), code, "{bytes:02x?}");
    }
}

#[test]
fn a_message_too_big_is_refused_before_it_has_come() {
    let announced = |length: usize| [&[0x82, 0xFF][..], &(length as u64).to_be_bytes()].concat();
    assert_eq!(code_of(&announced(MESSAGE_BYTES_MAX + 1)), 1009);
    assert_eq!(decode([&announced(MESSAGE_BYTES_MAX)[..]]), Ok(vec![]));
    let fragment = vec![0; MESSAGE_BYTES_MAX];
    let mut bytes = client_frame(0x02, &fragment, [0; 4]);
    assert_eq!(decode([&bytes[..]]), Ok(vec![]));
    bytes.extend(client_frame(0x80, b"x", [0; 4]));
    assert_eq!(code_of(&bytes), 1009);
}

#[test]
fn nothing_is_kept_when_nothing_is_incomplete() {
    let mut decoder = Decoder::default();
    for byte in [client_frame(0x01, b"Hel", [1; 4]), client_frame(0x80, b"lo", [1; 4])].concat() {
        decoder.feed(&mut [byte], &mut |_| ControlFlow::Continue(())).unwrap();
    }
    assert_eq!((decoder.partial.capacity(), decoder.message.capacity()), (0, 0));
}

#[test]
fn a_break_drops_what_follows() {
    let mut bytes = [client_frame(0x81, b"a", [0; 4]), client_frame(0x81, b"b", [0; 4]), vec![0x81]].concat();
    let mut decoder = Decoder::default();
    let mut count = 0;
    decoder
        .feed(&mut bytes, &mut |_| {
            count += 1;
            ControlFlow::Break(())
        })
        .unwrap();
    assert_eq!((count, decoder.partial.len()), (1, 0));
}

#[test]
fn replies_have_the_shortest_header() {
    for (length, expected) in [
        (0, vec![0x81, 0]),
        (125, vec![0x81, 125]),
        (126, vec![0x81, 126, 0, 126]),
        (65_535, vec![0x81, 126, 0xFF, 0xFF]),
        (65_536, vec![0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
    ] {
        let payload = vec![b'y'; length];
        let mut out = b"before".to_vec();
        put_text(&mut out, |out| out.extend_from_slice(&payload));
        assert_eq!(out, [b"before".to_vec(), expected, payload].concat(), "{length}");
    }
    let mut out = Vec::new();
    put_close(&mut out, Some(1012), "service restart");
    put_close(&mut out, None, "");
    put_pong(&mut out, b"p");
    put_ping(&mut out, b"q");
    assert_eq!(out, b"\x88\x11\x03\xf4service restart\x88\x00\x8a\x01p\x89\x01q");
}

#[derive(Debug, Clone)]
struct Sent {
    message: Got,
    fragments: usize,
    mask: [u8; 4],
}

impl Sent {
    fn bytes(&self) -> Vec<u8> {
        let (opcode, payload) = match &self.message {
            Got::Text(text) => (0x1, text.as_bytes().to_vec()),
            Got::Binary(bytes) => (0x2, bytes.clone()),
            Got::Ping(bytes) => return client_frame(0x89, bytes, self.mask),
            Got::Pong(bytes) => return client_frame(0x8A, bytes, self.mask),
            Got::Close(code) => {
                return client_frame(0x88, &code.map_or(vec![], |code| code.to_be_bytes().to_vec()), self.mask);
            }
        };
        let size = payload.len().div_ceil(self.fragments).max(1);
        let mut chunks: Vec<&[u8]> = payload.chunks(size).collect();
        if chunks.is_empty() {
            chunks.push(&[]);
        }
        let last = chunks.len() - 1;
        let frame = |(index, chunk): (usize, &&[u8])| {
            let first = if index == 0 { opcode } else { 0 } | if index == last { 0x80 } else { 0 };
            client_frame(first, chunk, self.mask)
        };
        chunks.iter().enumerate().flat_map(frame).collect()
    }
}

fn any_sent() -> impl Strategy<Value = Sent> {
    let control = || prop::collection::vec(any::<u8>(), 0..=125);
    let message = prop_oneof![
        4 => ".{0,200}".prop_map(Got::Text),
        2 => prop::collection::vec(any::<u8>(), 0..700).prop_map(Got::Binary),
        1 => control().prop_map(Got::Ping),
        1 => control().prop_map(Got::Pong),
        1 => prop::option::of(prop_oneof![1000_u16..=1003, 1007_u16..=1014, 3000_u16..=4999]).prop_map(Got::Close),
    ];
    (message, 1_usize..5, any::<[u8; 4]>()).prop_map(|(message, fragments, mask)| Sent { message, fragments, mask })
}

proptest! {
    #[test]
    fn what_is_sent_arrives_however_it_is_cut(
        sent in prop::collection::vec(any_sent(), 0..6),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let bytes: Vec<u8> = sent.iter().flat_map(Sent::bytes).collect();
        let expected: Vec<Got> = sent.iter().map(|sent| sent.message.clone()).collect();
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        at.extend([0, bytes.len()]);
        at.sort_unstable();
        prop_assert_eq!(decode(at.windows(2).map(|ends| &bytes[ends[0]..ends[1]])), Ok(expected.clone()));
        prop_assert_eq!(decode(bytes.chunks(1)), Ok(expected));
    }

    #[test]
    fn no_input_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode(bytes.chunks(7));
    }
}
