//! For tests: lists that the program makes and a page under `docs/` carries between two marks.

use std::path::Path;

/// The page has exactly `list` between its marks. `UPDATE_GOLDENFILES=1` writes it there.
pub fn check(page: &str, name: &str, list: &str) {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(page);
    let text = std::fs::read_to_string(&page).expect("read");
    let (begin, end) = (format!("<!-- begin {name} -->\n"), format!("<!-- end {name} -->\n"));
    let (head, rest) = text.split_once(&begin).expect("the page has the list's begin");
    let (body, tail) = rest.split_once(&end).expect("the page has the list's end");
    if std::env::var_os("UPDATE_GOLDENFILES").is_some() {
        std::fs::write(&page, format!("{head}{begin}{list}{end}{tail}")).expect("written");
    } else {
        assert_eq!(body, list, "run with UPDATE_GOLDENFILES=1");
    }
}
