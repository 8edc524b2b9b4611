//! Disks of the drill's own, and what can be done to them and to the files on them.
//!
//! | module | does |
//! |---|---|
//! | [`volume`] | an ext4 file system of one node, in a file: power cut, freeze, copy in flight, fill (root) |
//! | [`rot`] | bytes flipped, files cut, removed and put back in a stopped node's data: no root needed |

pub mod rot;
pub mod volume;
