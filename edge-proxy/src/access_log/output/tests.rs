use super::*;

fn file(dir: &Path, len_max: u64, kept: u32) -> LogFile {
    LogFile {
        path: dir.join("access.log"),
        len_max,
        kept,
        open: None,
    }
}

fn texts(dir: &Path) -> Vec<(String, String)> {
    let files = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let text = |path: PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        (name, std::fs::read_to_string(path).unwrap())
    };
    let mut texts: Vec<_> = files.map(text).collect();
    texts.sort();
    texts
}

#[test]
fn files_are_bounded_in_length_and_number() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = file(dir.path(), 10, 2);
    for number in 0..9 {
        log.write(format!("{number}000\n").as_bytes()).unwrap();
    }
    let named = |name: &str, text: &str| (name.to_owned(), text.to_owned());
    let expected = [
        named("access.log", "8000\n"),
        named("access.log.1", "6000\n7000\n"),
        named("access.log.2", "4000\n5000\n"),
    ];
    assert_eq!(texts(dir.path()), expected);
    // Many lines at once are divided, and one that is too long for any file has one.
    log.write(b"a\nb\na line that is longer\nc\n").unwrap();
    let expected = [
        named("access.log", "c\n"),
        named("access.log.1", "a line that is longer\n"),
        named("access.log.2", "8000\na\nb\n"),
    ];
    assert_eq!(texts(dir.path()), expected);
    // What was there before a start is gone on with.
    file(dir.path(), 10, 2).write(b"d\n").unwrap();
    assert_eq!(texts(dir.path())[0], named("access.log", "c\nd\n"));
}

#[test]
fn none_kept_is_one_file() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = file(dir.path(), 10, 0);
    log.write(b"1234567\n89\nabc\n").unwrap();
    assert_eq!(
        texts(dir.path()),
        [("access.log".to_owned(), "89\nabc\n".to_owned())]
    );
}

#[test]
fn a_file_that_was_moved_away_is_begun_anew() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = file(dir.path(), 1000, 2);
    log.write(b"one\n").unwrap();
    std::fs::rename(dir.path().join("access.log"), dir.path().join("old")).unwrap();
    log.write(b"two\n").unwrap();
    let texts = texts(dir.path());
    assert_eq!(texts[0].1, "two\n");
    assert_eq!(texts[1].1, "one\n");
}

#[test]
fn a_full_disk_is_survived_and_counted() {
    let mut log = file(Path::new("/dev"), 1_000_000, 0);
    log.path = PathBuf::from("/dev/full");
    let (lost, error) = log.write(b"one\ntwo\n").unwrap_err();
    assert_eq!((lost, error.kind()), (2, io::ErrorKind::StorageFull));
    let dir = tempfile::tempdir().unwrap();
    let mut log = file(&dir.path().join("not-there"), 1_000_000, 0);
    assert_eq!(log.write(b"one\ntwo\n").unwrap_err().0, 2);
    std::fs::create_dir(dir.path().join("not-there")).unwrap();
    log.write(b"three\n").unwrap();
}

#[test]
fn a_syslog_gets_a_datagram_a_line_and_is_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut place = Place::Syslog(
        Syslog::Unix(path.clone()),
        "n isobar-proxy 7 access -".into(),
        None,
    );
    assert_eq!(place.write(b"early\n").unwrap_err().0, 1);
    for _ in 0..2 {
        let _ = std::fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path).unwrap();
        // The one of before is gone: the first batch notices.
        let _ = place.write(b"lost\n");
        place.write(b"one\ntwo\n").unwrap();
        let mut got = Vec::new();
        let mut buffer = [0; 256];
        while got.len() < 2 {
            let len = socket.recv(&mut buffer).unwrap();
            let text = String::from_utf8_lossy(&buffer[..len]).into_owned();
            if !text.ends_with(" lost") {
                got.push(text);
            }
        }
        assert!(
            got[0].starts_with("<134>1 2") && got[0].ends_with("Z n isobar-proxy 7 access - one"),
            "{got:?}"
        );
    }
}

#[test]
fn a_syslog_is_waited_for_until_it_has_room_and_given_up_when_it_never_has() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let socket = UnixDatagram::bind(&path).unwrap();
    let mut place = Place::Syslog(Syslog::Unix(path), "n isobar-proxy 7 access -".into(), None);
    let batch: Vec<u8> = (0..500)
        .flat_map(|n| format!("{n}\n").into_bytes())
        .collect();
    let reader = std::thread::spawn(move || {
        let mut buffer = [0; 256];
        for number in 0..500 {
            let len = socket.recv(&mut buffer).unwrap();
            assert!(buffer[..len].ends_with(format!(" {number}").as_bytes()));
        }
        socket
    });
    place.write(&batch).unwrap();
    // From now on nobody reads: what its socket holds goes there, all that follows is given up together.
    let _socket = reader.join().unwrap();
    let (lost, error) = place.write(&batch).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    assert!((1..500).contains(&lost), "{lost}");
}
