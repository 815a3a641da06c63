//! An empty plugin for comparison: it takes the columns that another takes and gives back as many, unchanged. What it
//! costs is what the boundary costs.

use std::fmt::Write as _;

use millrace_plugin_host::Manifest;

const SOURCE: &str = include_str!("empty.wat");
/// Where the image begins in the guest's memory.
const BASE: usize = 1024;
const PAGE_BYTES: usize = 65_536;
/// Size of a returned column, of which `unchanged` is all zeroes.
const RETURNED_BYTES: usize = 36;

/// Memory of the guest as it starts, in the layout of the canonical ABI.
#[derive(Default)]
struct Image(Vec<u8>);

impl Image {
    fn put(&mut self, bytes: &[u8]) -> usize {
        self.0.resize(self.0.len().next_multiple_of(8), 0);
        let at = BASE + self.0.len();
        self.0.extend_from_slice(bytes);
        at
    }

    /// Pointer and length of a list.
    fn list(&mut self, items: &[u8], length: usize) -> [u8; 8] {
        let at = self.put(items) as u32;
        let mut pair = [0; 8];
        pair[..4].copy_from_slice(&at.to_le_bytes());
        pair[4..].copy_from_slice(&(length as u32).to_le_bytes());
        pair
    }

    fn strings(&mut self, texts: &[String]) -> [u8; 8] {
        let items: Vec<u8> = texts.iter().flat_map(|text| self.list(text.as_bytes(), text.len())).collect();
        self.list(&items, texts.len())
    }
}

/// The component of an empty plugin that reads and writes the columns of `manifest`.
pub(crate) fn component(manifest: &Manifest) -> Result<Vec<u8>, String> {
    let mut image = Image::default();
    let (name, version) = (image.list(b"empty", 5), image.list(b"1.0.0", 5));
    let (reads, writes) = (image.strings(&manifest.reads), image.strings(&manifest.writes));
    let none = [0; 8];
    // The tag of a result that is no error, then the record.
    let described = [&[0; 4][..], &name, &version, &reads, &writes, &none, &none, &none].concat();
    let described = image.put(&described);
    let columns = image.list(&vec![0; RETURNED_BYTES * manifest.writes.len()], manifest.writes.len());
    // The tag, columns, no sources, none dropped and none failed.
    let output = image.put(&[&[0; 4][..], &columns, &[0; 12], &none, &none].concat());
    let heap = (BASE + image.0.len()).next_multiple_of(16);
    let data = image.0.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "\\{byte:02x}");
        text
    });
    let source = SOURCE
        .replace("{pages}", &(heap / PAGE_BYTES + 1).to_string())
        .replace("{base}", &BASE.to_string())
        .replace("{image}", &data)
        .replace("{heap}", &heap.to_string())
        .replace("{manifest}", &described.to_string())
        .replace("{output}", &output.to_string());
    wat::parse_str(source).map_err(|error| error.to_string())
}
