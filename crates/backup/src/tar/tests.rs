//! Tar files made by the `tar` crate, read in pieces of any size; and hostile ones.

use proptest::prelude::*;

use super::*;

/// What a visitor was told: names and contents.
#[derive(Default)]
struct Seen {
    entries: Vec<(String, String, Vec<u8>)>,
    offsets: Vec<u64>,
    open: bool,
}

impl Visitor for Seen {
    type Error = TarError;

    fn entry(&mut self, entry: &Entry, at: u64) -> Result<(), TarError> {
        assert!(!self.open);
        self.open = true;
        let kind = format!("{:?}", entry.kind);
        self.entries.push((entry.path.to_string(), kind, Vec::new()));
        self.offsets.push(at);
        Ok(())
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), TarError> {
        self.entries.last_mut().unwrap().2.extend_from_slice(bytes);
        Ok(())
    }

    fn entry_end(&mut self) -> Result<(), TarError> {
        assert!(std::mem::take(&mut self.open));
        Ok(())
    }
}

fn read(bytes: &[u8], pieces: &[usize]) -> Result<(Seen, bool), TarError> {
    let (mut reader, mut seen) = (Reader::new(), Seen::default());
    let mut pieces = pieces.iter().copied().cycle();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (piece, later) = rest.split_at(pieces.next().unwrap().clamp(1, rest.len()));
        reader.feed(piece, &mut seen)?;
        rest = later;
    }
    let ended = reader.finish()?;
    Ok((seen, ended))
}

/// A header of the oracle's making.
fn header(name: &[u8], kind: u8, size: u64) -> ::tar::Header {
    let mut header = ::tar::Header::new_ustar();
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.set_entry_type(::tar::EntryType::new(kind));
    header.set_size(size);
    header.set_mode(0o600);
    header.set_cksum();
    header
}

fn file(name: &str, content: &[u8]) -> Vec<u8> {
    let mut bytes = header(name.as_bytes(), b'0', content.len() as u64).as_bytes().to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

fn refused(bytes: &[u8]) -> String {
    match read(bytes, &[usize::MAX]) {
        Err(error) => error.to_string(),
        Ok(_) => "nothing is wrong".to_owned(),
    }
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let check = |name: &[u8], expect: &str| {
        let error = refused(header(name, b'0', 0).as_bytes());
        assert!(error.contains(expect), "{error}");
    };
    check(b"/etc/passwd", "it is absolute");
    check(b"../x", "\"..\"");
    check(b"base/../../x", "\"..\"");
    check(b"", "it is empty");
    check(b"a//b", "empty");
}

#[test]
fn what_no_backup_has_is_refused_by_name() {
    for (kind, name) in [
        (b'1', "hard link"),
        (b'3', "device"),
        (b'4', "device"),
        (b'6', "pipe"),
        (b'L', "GNU long name"),
        (b'x', "pax extension"),
        (b'7', "0x37"),
    ] {
        let error = refused(header(b"x", kind, 0).as_bytes());
        assert!(error.contains(name), "{error}");
    }
    let twice = [file("a", b"x"), file("./a", b"y")].concat();
    assert!(refused(&twice).contains("has a twice"));
    let again = [file("a", b"x"), header(b"a/", b'5', 0).as_bytes().to_vec()].concat();
    assert!(refused(&again).contains("has a twice"));
}

#[test]
fn damage_is_refused() {
    let good = [file("a", b"content"), vec![0; 1024]].concat();
    assert!(read(&good, &[7]).is_ok_and(|(_, ended)| ended));
    // A digit of the sum that turns into a blank leaves the same number.
    for bit in (0..BLOCK * 8).filter(|bit| !(148..156).contains(&(bit / 8))) {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(read(&bad, &[usize::MAX]).is_err(), "bit {bit} of the header");
    }
    for cut in [1, 511, 512, 515, 1023] {
        assert_eq!(read(&good[..cut], &[100]).err(), Some(TarError::Truncated), "{cut}");
    }
    assert!(read(&good[..1024], &[100]).is_ok_and(|(_, ended)| !ended));
    let more = [good, file("b", b"")].concat();
    assert_eq!(refused(&more), TarError::AfterEnd.to_string());
}

#[test]
fn sizes_past_eight_gigabytes_are_read() {
    let size = 9_u64 << 30;
    let (mut reader, mut seen) = (Reader::new(), Seen::default());
    let header = header(b"base/1/2", b'0', size);
    assert_eq!(header.as_old().size[0], 0x80, "in base 256");
    reader.feed(header.as_bytes(), &mut seen).unwrap();
    assert_eq!(seen.entries[0].1, format!("File {{ size: {size} }}"));
    reader.skip_data(&mut seen).unwrap();
    assert_eq!(reader.position(), size + 512);
    assert_eq!(reader.finish(), Ok(false));
    let mut negative = ::tar::Header::new_ustar();
    negative.as_old_mut().name[0] = b'x';
    negative.as_old_mut().size = [0xff; 12];
    negative.set_cksum();
    assert!(refused(negative.as_bytes()).contains("has no size"));
}

proptest! {
    #[test]
    fn files_come_as_the_oracle_wrote_them(
        files in prop::collection::vec(("[a-z]{1,12}", prop::collection::vec(any::<u8>(), 0..1600)), 0..6),
        pieces in prop::collection::vec(1_usize..900, 1..8),
    ) {
        let mut builder = ::tar::Builder::new(Vec::new());
        let mut expect = Vec::new();
        for (place, (name, content)) in files.iter().enumerate() {
            let name = format!("base/{place}/{name}");
            let head = header(name.as_bytes(), b'0', content.len() as u64);
            builder.append(&head, content.as_slice()).unwrap();
            let kind = EntryKind::File { size: content.len() as u64 };
            expect.push((name, format!("{kind:?}"), content.clone()));
        }
        let bytes = builder.into_inner().unwrap();
        let (seen, ended) = read(&bytes, &pieces).unwrap();
        prop_assert!(ended);
        for ((_, _, content), at) in seen.entries.iter().zip(&seen.offsets) {
            let at = usize::try_from(*at).unwrap();
            prop_assert_eq!(&bytes[at..at + content.len()], content.as_slice());
        }
        prop_assert_eq!(seen.entries, expect);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        let _ = read(&bytes, &[usize::MAX]);
    }

    #[test]
    fn arbitrary_headers_never_panic(
        name in prop::collection::vec(any::<u8>(), 0..100),
        kind: u8,
        size in prop::array::uniform12(any::<u8>()),
        rest in prop::collection::vec(any::<u8>(), 0..1500),
    ) {
        let mut head = header(&name, kind, 0);
        head.as_old_mut().size = size;
        head.set_cksum();
        let _ = read(&[head.as_bytes().as_slice(), &rest].concat(), &[usize::MAX]);
    }
}
