//! Manual pages and completion scripts, made from the command line itself so that they say what it does.

use clap::Command;
use clap_complete::{Shell, generate_to};
use std::{fs, io, path::Path};

/// Writes a page for the command and for each of its commands into `into/man`, and scripts into
/// `into/completion`; hidden commands have none.
pub fn write(mut command: Command, into: &Path) -> io::Result<()> {
    let (pages, scripts) = (into.join("man"), into.join("completion"));
    fs::create_dir_all(&pages)?;
    fs::create_dir_all(&scripts)?;
    let name = command.get_name().to_owned();
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(shell, &mut command, &name, &scripts)?;
    }
    command.build();
    write_pages(&command, &pages)
}

/// `clap_mangen` alone would write a page for every `help` as well, some hundred of them.
fn write_pages(command: &Command, into: &Path) -> io::Result<()> {
    let shown = |command: &&Command| !command.is_hide_set() && command.get_name() != "help";
    for below in command.get_subcommands().filter(shown) {
        write_pages(below, into)?;
    }
    clap_mangen::Man::new(command.clone()).generate_to(into).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn every_command_has_a_page_and_every_shell_a_script() {
        let folder = tempfile::tempdir().expect("a folder");
        write(crate::cli::Cli::command(), folder.path()).expect("written");
        let names = |what: &str| {
            let entries = fs::read_dir(folder.path().join(what)).expect("a folder");
            let name = |entry: io::Result<fs::DirEntry>| {
                entry.expect("listed").file_name().into_string().expect("plain")
            };
            entries.map(name).collect::<std::collections::BTreeSet<_>>()
        };
        let pages = names("man");
        for page in ["oknoctl.1", "oknoctl-status.1", "oknoctl-case.1"] {
            assert!(pages.contains(page), "{page} is missing: {pages:?}");
        }
        assert!(!pages.contains("oknoctl-paper.1"), "what is hidden has no page");
        assert!(!pages.iter().any(|page| page.contains("-help")), "{pages:?}");
        assert_eq!(
            names("completion").into_iter().collect::<Vec<_>>(),
            ["_oknoctl", "oknoctl.bash", "oknoctl.fish"]
        );
        let page = fs::read_to_string(folder.path().join("man/oknoctl.1")).expect("text");
        assert!(page.contains(".TH"), "it is a manual page");
    }
}
