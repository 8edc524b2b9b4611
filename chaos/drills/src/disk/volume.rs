//! An ext4 file system of one node, in a file behind a loop device.
//!
//! Losing power is `EXT4_IOC_SHUTDOWN`: from that call on nothing reaches the device any more, whatever the page cache
//! held is lost at the next mount, and every file operation fails. It differs from a cut line in one point: a write
//! that the device has taken is never lost or torn, so that what is tested is that the node asked for its writes to be
//! made durable.
//!
//! Invariants: mounts and loop devices go with their volume, also when the drill is interrupted; a frozen file system
//! is thawed before that; nobody but a volume's owner uses its file.

use crate::cleanup::{self, Guard};
use crate::tools;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// `_IOR('X', 125, __u32)`.
const EXT4_IOC_SHUTDOWN: libc::c_ulong = 0x8004_587d;
/// `_IOWR('X', 119, int)`, `_IOWR('X', 120, int)`.
const FIFREEZE: libc::c_ulong = 0xc004_5877;
const FITHAW: libc::c_ulong = 0xc004_5878;
/// A process that was killed lets go of its files a little later.
const UNMOUNT_WITHIN: Duration = Duration::from_secs(10);
/// e2fsck: errors were corrected.
const FSCK_CORRECTED: i32 = 1;

/// How power is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerCut {
    /// Everything not synced is lost, metadata too.
    EverythingUnsynced,
    /// The journal is written out first: metadata are kept, the data they speak of are not.
    DataOnly,
}

/// What a file system promises beyond what was synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Journal {
    /// ext4's default: data are written before the metadata that name them.
    Ordered,
    /// Metadata may be there without their data.
    Writeback,
}

/// A file system that is mounted as long as this value, cuts of power excepted.
#[derive(Debug)]
pub struct Volume {
    image: PathBuf,
    mounted_at: PathBuf,
    journal: Journal,
    _guard: Guard,
}

impl Volume {
    /// Makes `<folder>/<name>.img` and mounts it at `<folder>/<name>`.
    pub fn create(folder: &Path, name: &str, mebibytes: u64, journal: Journal) -> Self {
        let image = folder.join(format!("{name}.img"));
        let mounted_at = folder.join(name);
        let file = File::create_new(&image).expect("the drill's folder is writable");
        file.set_len(mebibytes << 20).expect("a sparse file takes no room");
        std::fs::create_dir(&mounted_at).expect("the drill's folder is writable");
        // Everything at once: a file system that goes on initialising itself would write on its own.
        tools::run(
            "mkfs.ext4",
            ["-q", "-F", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0"]
                .map(Path::new)
                .into_iter()
                .chain([image.as_path()]),
        );
        let guard = cleanup::register(format!("the file system at {}", mounted_at.display()), {
            let mounted_at = mounted_at.clone();
            move || {
                if is_mounted(&mounted_at) {
                    // Thawing what is not frozen fails, and that is fine.
                    let _ = control(&mounted_at, FITHAW, 0);
                    // Lazily: the node on it may still be dying, and the loop device goes with the last user.
                    if let Err(why) = tools::attempt("umount", [Path::new("-l"), &mounted_at]) {
                        eprintln!("{why}");
                    }
                }
            }
        });
        let volume = Self { image, mounted_at, journal, _guard: guard };
        volume.mount();
        volume
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mounted_at
    }

    pub fn image(&self) -> &Path {
        &self.image
    }

    pub fn mount(&self) {
        let options = match self.journal {
            Journal::Ordered => "loop",
            // Without it ext4 writes data out early for programs that rename files into place unsynced.
            Journal::Writeback => "loop,data=writeback,noauto_da_alloc",
        };
        tools::run("mount", [Path::new("-o"), Path::new(options), &self.image, &self.mounted_at]);
    }

    /// Waits until its last user is gone.
    pub async fn unmount(&self) {
        let until = Instant::now() + UNMOUNT_WITHIN;
        loop {
            match tools::attempt("umount", [&self.mounted_at]) {
                Ok(_) => return,
                Err(why) if Instant::now() > until => panic!("{why}"),
                Err(_) => tokio::time::sleep(crate::harness::POLL).await,
            }
        }
    }

    /// From now on nothing reaches the device, and whatever it has not got is lost.
    pub fn cut_power(&self, how: PowerCut) {
        let flags = match how {
            PowerCut::DataOnly => 1,
            PowerCut::EverythingUnsynced => 2,
        };
        control(&self.mounted_at, EXT4_IOC_SHUTDOWN, flags)
            .unwrap_or_else(|why| panic!("cutting the power of {}: {why}", self.mounted_at.display()));
    }

    /// The power is back: what the device holds is recovered from its journal.
    pub async fn restore_power(&self) {
        self.unmount().await;
        self.mount();
    }

    /// A disk that does not answer any more: everybody who writes stands still.
    pub fn freeze(&self) -> Frozen {
        let guard = cleanup::register(format!("the frozen disk at {}", self.mounted_at.display()), {
            let path = self.mounted_at.clone();
            move || {
                // Not frozen any more, or never: nothing to do.
                let _ = control(&path, FITHAW, 0);
            }
        });
        control(&self.mounted_at, FIFREEZE, 0)
            .unwrap_or_else(|why| panic!("freezing {}: {why}", self.mounted_at.display()));
        Frozen { _guard: guard }
    }

    /// Copies the device's bytes while they are written to, as a backup tool that knows no better would.
    pub async fn copy_in_flight(&self) -> PathBuf {
        let copy = self.image.with_extension("copy");
        let (from, to) = (self.image.clone(), copy.clone());
        let copied = tokio::task::spawn_blocking(move || {
            let plain = ["--sparse=always", "--reflink=never"].map(Path::new);
            tools::run("cp", plain.into_iter().chain([from.as_path(), to.as_path()]));
        });
        copied.await.expect("the copy can be made");
        copy
    }

    /// Puts a copy in the place of the device, repaired as far as a file system check can; returns what that said.
    pub async fn replace_by(&self, copy: &Path) -> String {
        self.unmount().await;
        std::fs::rename(copy, &self.image).expect("both lie in one folder");
        let checked = std::process::Command::new("e2fsck")
            .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
            .args(["-f", "-y"])
            .arg(&self.image)
            .output()
            .expect("e2fsck was looked for before");
        let said = String::from_utf8_lossy(&checked.stdout).into_owned();
        assert!(
            checked.status.code().is_some_and(|code| code <= FSCK_CORRECTED),
            "the copied file system cannot be repaired: {said}"
        );
        self.mount();
        said
    }

    /// Writes a file until nothing more fits; returns its size.
    pub fn fill(&self) -> u64 {
        use std::io::Write;
        let mut file = File::create(self.filler()).expect("the volume is mounted and writable");
        // Smaller and smaller, so that not even a little is left.
        for bytes in [1 << 20, 64 << 10, 4 << 10] {
            let block = vec![0xa5; bytes];
            while file.write_all(&block).is_ok() {}
        }
        // Room is taken when it is written back, at the latest.
        let _ = file.sync_all();
        file.metadata().map_or(0, |metadata| metadata.len())
    }

    /// Writes a file until only so many bytes are left; returns its size.
    pub fn fill_to(&self, left: u64) -> u64 {
        use std::io::Write;
        const BLOCK: usize = 64 << 10;
        let file = File::options().create(true).append(true).open(self.filler());
        let mut file = file.expect("the volume is mounted and writable");
        let block = vec![0xa5; BLOCK];
        while self.available() > left + BLOCK as u64 {
            // Several blocks a look at the room, which starts a program.
            let blocks = ((self.available() - left) / BLOCK as u64).min(256);
            for _ in 0..blocks {
                if file.write_all(&block).is_err() {
                    break;
                }
            }
            let _ = file.sync_all();
        }
        file.metadata().map_or(0, |metadata| metadata.len())
    }

    /// Removes what [`Volume::fill`] wrote.
    pub fn free(&self) {
        std::fs::remove_file(self.filler()).expect("it was written before");
    }

    fn filler(&self) -> PathBuf {
        self.mounted_at.join("filler")
    }

    /// Bytes a user could still write.
    pub fn available(&self) -> u64 {
        let shown =
            tools::run("df", [Path::new("--output=avail"), Path::new("-B1"), self.mounted_at.as_path()]);
        shown.lines().nth(1).and_then(|line| line.trim().parse().ok()).expect("df prints a number")
    }
}

/// Cuts the power of several volumes at once, as far as one machine can.
pub fn cut_power_at_once(volumes: &[&Volume], how: PowerCut) {
    let barrier = std::sync::Barrier::new(volumes.len());
    std::thread::scope(|scope| {
        for volume in volumes {
            scope.spawn(|| {
                barrier.wait();
                volume.cut_power(how);
            });
        }
    });
}

/// A file system that stands still as long as this value.
#[derive(Debug)]
#[must_use = "dropped at once, it thaws at once"]
pub struct Frozen {
    _guard: Guard,
}

fn is_mounted(path: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let wanted = path.to_string_lossy();
    mounts.lines().any(|line| line.split(' ').nth(1) == Some(&wanted))
}

#[allow(unsafe_code)]
fn control(path: &Path, request: libc::c_ulong, value: u32) -> std::io::Result<()> {
    let directory = File::open(path)?;
    // SAFETY: all three requests take a pointer to a 32-bit number, which lives through the call, or ignore it; the
    // descriptor is open.
    let outcome = unsafe { libc::ioctl(directory.as_raw_fd(), request, &value) };
    if outcome < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}
