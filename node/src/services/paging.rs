//! Page sizes and tokens.

use super::desk::Desk;
use crate::{failure::Failure, front::CallContext};

/// A page asked for: its size, and behind which position it begins.
pub struct Page {
    pub size: usize,
    pub after: Option<Vec<u8>>,
}

impl Desk {
    /// Reads size and token of a page. `filter` is the canonical form of what decides which rows are listed.
    pub fn page(
        &self,
        context: &CallContext,
        size: u32,
        (default, max): (u32, u32),
        filter: &[u8],
        token: &str,
    ) -> Result<Page, Failure> {
        if size > max {
            return Err(Failure::field(
                "page_size",
                &format!("не более {max}"),
                &format!("expected at most {max}"),
            ));
        }
        let size = if size == 0 { default } else { size };
        let after = if token.is_empty() {
            None
        } else {
            let opened = self.tokens.open_page(context.rule.method, filter, token);
            Some(opened.map_err(|_| Failure::page_token_stale())?)
        };
        Ok(Page { size: size as usize, after })
    }

    /// The token of the page behind `position`.
    pub fn next_page(&self, context: &CallContext, filter: &[u8], position: &[u8]) -> String {
        self.tokens.page(context.rule.method, filter, position)
    }

    /// Pages a list that is in order of its text keys: skips to behind the token, takes a page.
    pub fn page_by_text<T>(
        &self,
        context: &CallContext,
        page: &Page,
        filter: &[u8],
        items: impl Iterator<Item = T>,
        key: impl Fn(&T) -> &str,
    ) -> (Vec<T>, String) {
        let after = page.after.as_deref();
        let mut items = items.filter(|item| after.is_none_or(|after| key(item).as_bytes() > after));
        let found: Vec<T> = items.by_ref().take(page.size).collect();
        let next = match (found.last(), items.next()) {
            (Some(last), Some(_)) => self.next_page(context, filter, key(last).as_bytes()),
            _ => String::new(),
        };
        (found, next)
    }
}
