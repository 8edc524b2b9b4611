//! The catalogue from outside: calendar arithmetic, the files people edit, the shipped data, the entity's laws.

mod calendar;
mod entity;
mod files;
mod modules;
mod shipped;
mod support;
