//! Text made to fit the terminal it is for.

use crate::net::kernel;

/// Nothing is broken into narrower lines than this.
const NARROWEST: usize = 20;
/// What is left of a line stands so much further in.
const HANGING: usize = 4;

/// How much there is room for; without a terminal for everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Screen {
    pub columns: usize,
    pub rows: usize,
}

impl Screen {
    /// Room for everything.
    pub const ENDLESS: Self = Self { columns: usize::MAX, rows: usize::MAX };

    /// The terminal behind standard output, as large as it is now.
    pub fn now() -> Self {
        match kernel::window().filter(|_| super::is_screen()) {
            Some((columns, rows)) => Self { columns: usize::from(columns).max(NARROWEST), rows: usize::from(rows) },
            None => Self::ENDLESS,
        }
    }

    /// Breaks each line between words. Words that are wider stay whole.
    pub fn wrap(self, text: &str) -> String {
        let mut wrapped = String::new();
        for line in text.lines() {
            let indent = line.chars().take_while(|c| *c == ' ').count();
            let mut width = 0;
            for (n, word) in line.trim_start().split(' ').enumerate() {
                let letters = word.chars().count();
                match n {
                    0 => wrapped.push_str(&" ".repeat(indent)),
                    _ if width + 1 + letters > self.columns => {
                        width = indent + HANGING;
                        wrapped.push('\n');
                        wrapped.push_str(&" ".repeat(width));
                    }
                    _ => {
                        width += 1;
                        wrapped.push(' ');
                    }
                }
                width += if n == 0 { indent + letters } else { letters };
                wrapped.push_str(word);
            }
            wrapped.push('\n');
        }
        wrapped
    }

    /// The lines that there is room for above the cursor, and how many there are beyond.
    pub fn cut(self, text: &str) -> String {
        let (lines, room) = (text.lines().count(), self.rows.saturating_sub(1).max(2));
        if lines <= room {
            return text.to_owned();
        }
        let shown: String = text.split_inclusive('\n').take(room - 1).collect();
        format!("{shown}… {} more lines\n", lines - (room - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wide(columns: usize) -> Screen {
        Screen { columns, rows: 24 }
    }

    #[test]
    fn lines_are_broken_between_words_and_hang() {
        let text = "one two three four\n  five six seven eight\n\n";
        assert_eq!(Screen::ENDLESS.wrap(text), text);
        let expected = "one two three\n    four\n  five six\n      seven\n      eight\n\n";
        assert_eq!(wide(13).wrap(text), expected);
        assert_eq!(wide(13).wrap("averylongword is"), "averylongword\n    is\n");
    }

    #[test]
    fn what_does_not_fit_below_is_counted() {
        let text = "1\n2\n3\n4\n5\n";
        let tall = |rows| Screen { columns: 80, rows };
        assert_eq!(tall(6).cut(text), text);
        assert_eq!(tall(5).cut(text), "1\n2\n3\n… 2 more lines\n");
        assert_eq!(tall(0).cut(text), "1\n… 4 more lines\n");
    }
}
