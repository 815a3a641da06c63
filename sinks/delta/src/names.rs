//! How data files are named, and how a name is told from any other.

use millrace_rows::schema::EVENT_DATE;

/// How data files are named within `event_date=…/`.
pub(crate) const FILE_PREFIX: &str = "millrace-";
/// The end of a data file's name.
pub(crate) const FILE_SUFFIX: &str = ".parquet";

/// The last segment of a path. Ours are unique and have no character that is ever escaped: other writers of the log may
/// spell the rest of a path in another way (escaped, absolute) and mean the same file.
pub(crate) fn file_name(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}

/// Whether a path is one that this crate gives a data file: `event_date=…/millrace-<partition>-<uuid>.parquet`.
pub(crate) fn is_data_file(path: &str) -> bool {
    let Some((date, name)) = path.split_once('/') else { return false };
    let stem = name.strip_prefix(FILE_PREFIX).and_then(|name| name.strip_suffix(FILE_SUFFIX));
    let Some((partition, uuid)) = stem.and_then(|stem| stem.split_once('-')) else { return false };
    let date = date.strip_prefix(EVENT_DATE).and_then(|date| date.strip_prefix('='));
    date.is_some_and(|date| date.parse::<chrono::NaiveDate>().is_ok())
        && partition.parse::<u32>().is_ok()
        && uuid::Uuid::try_parse(uuid).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_we_give_are_ours() {
        let uuid = uuid::Uuid::now_v7();
        assert!(is_data_file(&format!("event_date=2026-11-03/millrace-12-{uuid}.parquet")));
        for other in [
            format!("event_date=2026-11-03/part-00000-{uuid}-c000.snappy.parquet"),
            format!("event_date=2026-11-03/sub/millrace-12-{uuid}.parquet"),
            format!("event_date=nodate/millrace-12-{uuid}.parquet"),
            format!("millrace-12-{uuid}.parquet"),
            format!("event_date=2026-11-03/millrace-12-{uuid}.parquet.bak"),
            format!("_delta_log/millrace-12-{uuid}.parquet"),
        ] {
            assert!(!is_data_file(&other), "{other}");
        }
        assert_eq!(file_name("file:///t/event_date%3D2026-11-03/millrace-1-x.parquet"), "millrace-1-x.parquet");
    }
}
