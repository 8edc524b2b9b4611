//! The catalogue from outside: calendar arithmetic, the files people edit, the shipped data, the entity's laws.

mod calendar;
mod entity;
mod files;
mod shipped;
mod support;
