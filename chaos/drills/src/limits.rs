//! Less of the machine for one process: descriptors, address space; and how much it takes.

use std::collections::BTreeSet;
use std::io;

/// What the kernel counts and limits for one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    Descriptors,
    AddressSpace,
}

impl Resource {
    const fn number(self) -> libc::__rlimit_resource_t {
        match self {
            Self::Descriptors => libc::RLIMIT_NOFILE,
            Self::AddressSpace => libc::RLIMIT_AS,
        }
    }
}

/// The limit that is in force for a process.
pub fn limit(process: u32, resource: Resource) -> io::Result<u64> {
    exchange(process, resource, None)
}

/// Puts another limit in force. The one above it stays, so that the old one can be put back without being root.
pub fn set_limit(process: u32, resource: Resource, limit: u64) -> io::Result<()> {
    exchange(process, resource, Some(limit)).map(drop)
}

#[allow(unsafe_code)]
fn exchange(process: u32, resource: Resource, limit: Option<u64>) -> io::Result<u64> {
    let process = libc::pid_t::try_from(process).map_err(io::Error::other)?;
    let mut old = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: prlimit64(2) reads no new limit where the pointer is null and writes the old one into `old`, which lives.
    let outcome = unsafe { libc::prlimit64(process, resource.number(), std::ptr::null(), &raw mut old) };
    if outcome != 0 {
        return Err(io::Error::last_os_error());
    }
    if let Some(limit) = limit {
        let new = libc::rlimit64 { rlim_cur: limit.min(old.rlim_max), rlim_max: old.rlim_max };
        // SAFETY: as above, the other way about: it reads `new`, which lives, and writes nothing.
        let outcome =
            unsafe { libc::prlimit64(process, resource.number(), &raw const new, std::ptr::null_mut()) };
        if outcome != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(old.rlim_cur)
}

/// The lowest descriptor a process has free: as a limit it leaves none to be opened, and all that are open.
pub fn lowest_free_descriptor(process: u32) -> io::Result<u64> {
    let mut taken = BTreeSet::new();
    for entry in std::fs::read_dir(format!("/proc/{process}/fd"))? {
        taken.insert(entry?.file_name().to_string_lossy().parse::<u64>().map_err(io::Error::other)?);
    }
    Ok((0..).find(|number| !taken.contains(number)).expect("fewer are taken than there are numbers"))
}

/// Mapped address space of a process in bytes.
pub fn address_space(process: u32) -> Option<u64> {
    kib(process, "VmSize:").map(|kib| kib * 1024)
}

/// Resident memory of a process in bytes; `None`: it is gone.
pub fn resident(process: u32) -> Option<u64> {
    kib(process, "VmRSS:").map(|kib| kib * 1024)
}

fn kib(process: u32, what: &str) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(what))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_lowered_and_put_back() {
        let own = std::process::id();
        let before = limit(own, Resource::Descriptors).unwrap();
        set_limit(own, Resource::Descriptors, before - 1).unwrap();
        assert_eq!(limit(own, Resource::Descriptors).unwrap(), before - 1);
        set_limit(own, Resource::Descriptors, before).unwrap();
        assert_eq!(limit(own, Resource::Descriptors).unwrap(), before);
        assert!(lowest_free_descriptor(own).unwrap() >= 3);
        assert!(resident(own).unwrap() > 0 && address_space(own).unwrap() > resident(own).unwrap());
    }
}
