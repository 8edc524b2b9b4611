//! The catalogue in `ops/catalogue`, embedded: services with their terms and the production calendars.

use okno_proto::v1::CatalogueFile;

include!(concat!(env!("OUT_DIR"), "/catalogue.rs"));

/// The shipped files as a load carries them.
pub fn catalogue_files() -> Vec<CatalogueFile> {
    FILES
        .iter()
        .map(|(path, text)| CatalogueFile { path: (*path).to_owned(), text: (*text).to_owned() })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_and_calendars_are_embedded() {
        for (folder, least) in [("services/", 12), ("calendars/", 3)] {
            let found =
                FILES.iter().filter(|(path, text)| path.starts_with(folder) && !text.is_empty()).count();
            assert!(found >= least, "{folder}: {found} files");
        }
        let bytes: usize = FILES.iter().map(|(_, text)| text.len()).sum();
        assert!(bytes < okno_client::MAX_MESSAGE, "{bytes} bytes do not go into one message");
    }
}
