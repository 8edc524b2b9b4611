//! Damage on a target is found by reading it again, and mended by the next backup.

use super::{
    super::{
        objects,
        retention::{State, state},
        scrub,
    },
    *,
};
use std::time::Duration;

fn object_of(room: &Room, manifest: &Manifest) -> PathBuf {
    let table = manifest.database.iter().find(|f| f.name.ends_with(".sst")).expect("a table");
    objects::path(&room.folder(), &manifest.recipients_name, manifest.sealed(), &table.sha256)
}

#[test]
fn damage_in_what_backups_share_is_mended_by_the_next_for_all_of_them() {
    for sealed in [false, true] {
        let mut room = Room::new(sealed);
        room.node.grow(300);
        let first = room.take();
        flip(&object_of(&room, &first), 300);
        assert!(room.verify(&first.id).is_err());
        room.node.grow(1);
        let second = room.take();
        room.verify(&second.id).expect("nothing rests on the damaged file");
        room.verify(&first.id).expect("the mended file is the first one's as well, sealed anew or not");
        let listed = manifest::readable(&room.folder()).expect("listed");
        assert!(listed.iter().all(|m| is_usable(&room, m, &Stored::of(&listed))));
        assert_eq!(scrub::scrub(&room.folder(), 0, &Silent).expect("read").damaged, 0);
    }
}

#[test]
fn a_flipped_byte_a_missing_file_and_a_torn_manifest_are_found_without_a_key() {
    for sealed in [false, true] {
        let mut room = Room::new(sealed);
        room.node.grow(200);
        let first = room.take();
        let mut archiver = room.archiver();
        room.node.grow(40);
        archiver.turn(&room.node, &Silent).expect("archived");
        let whole = scrub::scrub(&room.folder(), 0, &Silent).expect("read");
        assert_eq!((whole.damaged, whole.trouble()), (0, None), "{whole:?}");
        assert!(whole.files > first.files().count() as u64, "the archive is read too: {whole:?}");
        assert_eq!(scrub::last(&room.folder()), Some(whole.clone()));

        let (object, segment) = (object_of(&room, &first), segment(&room));
        let manifest = room.folder().backups().join(&first.id).join(manifest::FILE);
        let hurt = |path: &Path| {
            flip(path, 40);
            let found = scrub::scrub(&room.folder(), 0, &Silent).expect("read");
            flip(path, 40);
            found
        };
        let found = hurt(&object);
        assert_eq!(found.damaged, 1, "{found:?}");
        let told = |damage: &Damage| state(&room.folder(), &first, &Stored::of([&first]), damage);
        assert_eq!(told(&Damage::default()), State::Complete, "its files lie there in their sizes");
        let damage = Damage::on(&room.folder());
        let (now, minute) = (std::time::SystemTime::now(), Duration::from_secs(60));
        let written = |at| fs::File::open(&object).expect("there").set_modified(at).expect("set");
        written(now - minute);
        assert_eq!(told(&damage), State::Damaged, "{found:?}");
        written(now + minute);
        assert_eq!(told(&damage), State::Complete, "written anew since");
        assert!(found.trouble().expect("told").contains("SHA-256 as stored"), "{found:?}");
        assert_eq!(hurt(&manifest).damaged, 1);
        // What a sealed segment holds is known to the key's holder only.
        assert_eq!(hurt(&segment).damaged, u64::from(!sealed));
        fs::rename(&object, room.root.join("away")).expect("moved");
        let found = scrub::scrub(&room.folder(), 0, &Silent).expect("read");
        assert!(found.trouble().expect("told").contains("is missing"), "{found:?}");
        fs::rename(room.root.join("away"), &object).expect("moved");
        assert_eq!(scrub::scrub(&room.folder(), 0, &Silent).expect("read").damaged, 0);
    }
}

fn segment(room: &Room) -> PathBuf {
    let names = archive::segments(&room.folder(), 1).expect("listed");
    room.folder().archive(1).join(names[0].text())
}

#[test]
fn a_scrub_is_due_when_the_last_one_is_old_unknown_or_from_the_future() {
    let every = Duration::from_secs(100);
    let last = |at_ms| scrub::Scrubbed {
        at_ms,
        at: String::new(),
        files: 1,
        bytes: 1,
        damaged: 0,
        named: vec![],
        places: vec![],
    };
    assert_eq!(scrub::due_in(None, every, 0), Duration::ZERO);
    assert_eq!(scrub::due_in(Some(&last(0)), every, 40_000), Duration::from_secs(60));
    assert_eq!(scrub::due_in(Some(&last(0)), every, 100_000), Duration::ZERO);
    assert_eq!(scrub::due_in(Some(&last(50_000)), every, 40_000), Duration::ZERO);
    // After damage was found it is not waited for a week.
    let week = Duration::from_secs(7 * 24 * 3_600);
    assert_eq!(scrub::due_in(Some(&last(0)), week, 0), week);
    let damaged = scrub::Scrubbed { damaged: 1, ..last(0) };
    assert_eq!(scrub::due_in(Some(&damaged), week, 0), Duration::from_secs(24 * 3_600));
}

#[test]
fn a_scrub_that_is_stopped_leaves_the_last_record() {
    let mut room = Room::new(false);
    room.node.grow(50);
    room.take();
    let whole = scrub::scrub(&room.folder(), 0, &Silent).expect("read");
    let stopped = scrub::scrub(&room.folder(), 0, &StopAt::new(3));
    assert!(matches!(stopped, Err(BackupError::Stopped)), "{stopped:?}");
    assert_eq!(scrub::last(&room.folder()), Some(whole));
}
