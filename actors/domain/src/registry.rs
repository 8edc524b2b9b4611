//! The one registry of entity kinds: one line per kind, everything else follows from it.
//!
//! The line `4 "directory" directory::Directory;` gives the kind its stable number (keys and durable records carry
//! it; never reuse one), its name in entity keys, and its module. From the lines come [`Kind`], the unions
//! [`AnyCommand`], [`AnyReply`] and [`AnyEvent`], the conversions in [`Registered`], and
//! [`with_kind!`](crate::with_kind), by which generic code is entered from a `Kind` known only at run time.

use crate::entity::Entity;
use serde::{Deserialize, Serialize};

/// An entity that stands in the registry: its commands, replies and events go into and out of the unions.
#[allow(clippy::result_large_err, reason = "what is given back is what came in")]
pub trait Registered: Entity {
    fn command_into(command: Self::Command) -> AnyCommand;
    /// `Err` gives the command back: it is another kind's.
    fn command_from(any: AnyCommand) -> Result<Self::Command, AnyCommand>;
    fn reply_into(reply: Self::Reply) -> AnyReply;
    fn reply_from(any: AnyReply) -> Result<Self::Reply, AnyReply>;
    fn event_into(event: Self::Event) -> AnyEvent;
    fn event_from(any: AnyEvent) -> Result<Self::Event, AnyEvent>;
}

macro_rules! registry {
    ($d:tt $($number:literal $name:literal $module:ident::$Kind:ident;)+) => {
        /// The kinds of entity. Encoded as its stable number.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(into = "u8", try_from = "u8")]
        pub enum Kind {
            $($Kind = $number,)+
        }

        impl Kind {
            /// Every kind, in the order of the numbers.
            pub const ALL: &'static [Self] = &[$(Self::$Kind,)+];

            /// The kind as entity keys spell it.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$Kind => $name,)+
                }
            }

            /// The stable number; durable records carry it.
            pub const fn number(self) -> u8 {
                self as u8
            }

            pub fn parse(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$Kind),)+
                    _ => None,
                }
            }

            pub const fn from_number(number: u8) -> Option<Self> {
                match number {
                    $($number => Some(Self::$Kind),)+
                    _ => None,
                }
            }
        }

        /// A command of any kind, as it travels from the network to the entity.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        pub enum AnyCommand {
            $($Kind(<crate::$module::$Kind as Entity>::Command),)+
        }

        impl AnyCommand {
            /// The kind of entity it is for.
            pub const fn kind(&self) -> Kind {
                match self {
                    $(Self::$Kind(_) => Kind::$Kind,)+
                }
            }
        }

        /// A reply of any kind.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        pub enum AnyReply {
            $($Kind(<crate::$module::$Kind as Entity>::Reply),)+
        }

        impl AnyReply {
            pub const fn kind(&self) -> Kind {
                match self {
                    $(Self::$Kind(_) => Kind::$Kind,)+
                }
            }
        }

        /// An event of any kind, as the journal's readers see it.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        pub enum AnyEvent {
            $($Kind(<crate::$module::$Kind as Entity>::Event),)+
        }

        impl AnyEvent {
            pub const fn kind(&self) -> Kind {
                match self {
                    $(Self::$Kind(_) => Kind::$Kind,)+
                }
            }
        }

        $(
            impl Registered for crate::$module::$Kind {
                fn command_into(command: Self::Command) -> AnyCommand {
                    AnyCommand::$Kind(command)
                }
                fn command_from(any: AnyCommand) -> Result<Self::Command, AnyCommand> {
                    match any {
                        AnyCommand::$Kind(command) => Ok(command),
                        #[allow(unreachable_patterns, reason = "unreachable while one kind is registered")]
                        other => Err(other),
                    }
                }
                fn reply_into(reply: Self::Reply) -> AnyReply {
                    AnyReply::$Kind(reply)
                }
                fn reply_from(any: AnyReply) -> Result<Self::Reply, AnyReply> {
                    match any {
                        AnyReply::$Kind(reply) => Ok(reply),
                        #[allow(unreachable_patterns, reason = "unreachable while one kind is registered")]
                        other => Err(other),
                    }
                }
                fn event_into(event: Self::Event) -> AnyEvent {
                    AnyEvent::$Kind(event)
                }
                fn event_from(any: AnyEvent) -> Result<Self::Event, AnyEvent> {
                    match any {
                        AnyEvent::$Kind(event) => Ok(event),
                        #[allow(unreachable_patterns, reason = "unreachable while one kind is registered")]
                        other => Err(other),
                    }
                }
            }
        )+

        /// Enters generic code from a [`Kind`] known only at run time:
        /// `with_kind!(kind, E => activate::<E>(id))`. Every arm must have the same type.
        #[macro_export]
        macro_rules! with_kind {
            ($d kind:expr, $d Entity:ident => $d body:expr) => {
                match $d kind {
                    $(
                        $crate::registry::Kind::$Kind => {
                            type $d Entity = $crate::$module::$Kind;
                            $d body
                        }
                    )+
                }
            };
        }
    };
}

registry! { $
    1 "case" case::Case;
    2 "queue" queue::Queue;
    3 "catalogue" catalogue::Catalogue;
    4 "directory" directory::Directory;
    5 "channel" channel::Channel;
}

impl From<Kind> for u8 {
    fn from(kind: Kind) -> Self {
        kind.number()
    }
}

impl TryFrom<u8> for Kind {
    type Error = String;
    fn try_from(number: u8) -> Result<Self, String> {
        Self::from_number(number).ok_or_else(|| format!("no entity kind has the number {number}"))
    }
}
