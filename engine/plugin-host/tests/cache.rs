//! Compiled plugins are taken from disk when they are whole and ours, and from nowhere else.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking too")]

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use millrace_plugin_host::{HostOptions, Limits, LoadError, PluginHost};
use support::{Guest, obedient};

fn host(dir: &Path, bytes_max: u64) -> PluginHost {
    let options =
        HostOptions { cache_dir: Some(dir.join("aot")), cache_bytes_max: bytes_max, ..HostOptions::default() };
    PluginHost::new(options).unwrap()
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(dir.join("aot")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn works(host: &PluginHost, guest: &Guest) {
    let plugin = host.load(&guest.wasm()).unwrap();
    assert_eq!(plugin.manifest("{}", &Limits::default()).unwrap().name, guest.name);
}

#[test]
fn the_second_load_uses_the_file_of_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let guest = obedient("a", "event", "n");
    works(&host(dir.path(), 1 << 30), &guest);
    let [file] = files(dir.path()).try_into().unwrap();
    let metadata = file.metadata().unwrap();
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    assert_eq!(file.parent().unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o700);
    let plugin = host(dir.path(), 1 << 30).load(&guest.wasm()).unwrap();
    assert!(file.file_name().unwrap().to_string_lossy().starts_with(&plugin.digest_hex()));
    // The same file, neither written again nor replaced.
    assert_eq!(files(dir.path()), std::slice::from_ref(&file));
    assert_eq!(file.metadata().unwrap().ino(), metadata.ino());
}

#[test]
fn a_file_that_is_damaged_or_not_ours_is_compiled_again() {
    let dir = tempfile::tempdir().unwrap();
    let guest = obedient("a", "event", "n");
    works(&host(dir.path(), 1 << 30), &guest);
    let [file] = files(dir.path()).try_into().unwrap();
    let whole = fs::read(&file).unwrap();
    type Damage = (&'static str, fn(&mut Vec<u8>));
    let damage: [Damage; 5] = [
        ("a bit of the code", |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        }),
        ("the checksum", |bytes| bytes[10] ^= 1),
        ("the magic", |bytes| bytes[0] ^= 1),
        ("cut short", |bytes| bytes.truncate(bytes.len() - 1)),
        ("empty", Vec::clear),
    ];
    for (what, change) in damage {
        let mut bytes = whole.clone();
        change(&mut bytes);
        fs::write(&file, &bytes).unwrap();
        works(&host(dir.path(), 1 << 30), &guest);
        assert_eq!(fs::read(&file).unwrap().len(), whole.len(), "{what}: written again");
        assert_ne!(fs::read(&file).unwrap(), bytes, "{what}");
    }
    // Another plugin's artifact under this one's name: whole, and not this plugin.
    let other = obedient("b", "event", "n");
    works(&host(dir.path(), 1 << 30), &other);
    let stranger = files(dir.path()).into_iter().find(|path| *path != file).unwrap();
    fs::copy(&stranger, &file).unwrap();
    works(&host(dir.path(), 1 << 30), &guest);
    // A file that others may write could be anybody's.
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    works(&host(dir.path(), 1 << 30), &guest);
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    // A link is not followed.
    fs::remove_file(&file).unwrap();
    std::os::unix::fs::symlink(&stranger, &file).unwrap();
    works(&host(dir.path(), 1 << 30), &guest);
    assert!(file.symlink_metadata().unwrap().is_file());
}

#[test]
fn the_oldest_files_go_when_the_bound_is_met() {
    let dir = tempfile::tempdir().unwrap();
    works(&host(dir.path(), 1 << 30), &obedient("a", "event", "n"));
    let [first] = files(dir.path()).try_into().unwrap();
    let size = first.metadata().unwrap().len();
    let long_ago = SystemTime::now() - Duration::from_secs(10_000);
    fs::File::open(&first).unwrap().set_modified(long_ago).unwrap();
    // A file of a process that died, and one that is nobody's business.
    let temporary = dir.path().join("aot/.tmp-1-1-1");
    fs::write(&temporary, b"half").unwrap();
    fs::File::open(&temporary).unwrap().set_modified(long_ago).unwrap();
    fs::write(dir.path().join("aot/README"), b"hello").unwrap();
    let host = host(dir.path(), 2 * size + size / 2);
    works(&host, &obedient("b", "event", "n"));
    assert!(first.exists() && !temporary.exists());
    works(&host, &obedient("c", "event", "n"));
    assert!(!first.exists(), "the one used longest ago is gone");
    assert_eq!(files(dir.path()).len(), 3, "two plugins and the README");
}

#[test]
fn a_directory_that_others_can_write_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let open = dir.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o755)).unwrap();
    let options = HostOptions { cache_dir: Some(open), ..HostOptions::default() };
    match PluginHost::new(options) {
        Err(LoadError::Host { message }) => assert!(message.contains("chmod 700"), "{message}"),
        other => panic!("{:?}", other.err()),
    }
}
