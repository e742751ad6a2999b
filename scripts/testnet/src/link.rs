//! What is wrong with the link, and what that means for one connection. Pure.

use std::fmt;
use std::str::FromStr;

/// What can be said to a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    Stall,
    Resume,
    HalfOpen,
    Heal,
    Cut,
}

impl Word {
    pub const ALL: [Self; 5] = [Self::Stall, Self::Resume, Self::HalfOpen, Self::Heal, Self::Cut];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stall => "stall",
            Self::Resume => "resume",
            Self::HalfOpen => "half-open",
            Self::Heal => "heal",
            Self::Cut => "cut",
        }
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Word {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|word| word.as_str() == text).ok_or_else(|| {
            let known = Self::ALL.map(Self::as_str).join(", ");
            format!("{text:?} is not known; say one of {known}")
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    HalfOpen,
    Cut,
}

/// The state of the link. A stall and the two troubles do not exclude each other: each has its own word that ends it.
///
/// The counts let a connection see a trouble that came and went while it was not looking.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Link {
    stalled: bool,
    trouble: Option<Trouble>,
    half_opens: u64,
    cuts: u64,
}

/// What happens to one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Forwarded,
    /// Nothing goes on for now.
    Stalled,
    /// Open, but nothing ever goes on again.
    Dead,
    Reset,
}

impl Link {
    pub(crate) fn apply(&mut self, word: Word) {
        match word {
            Word::Stall => self.stalled = true,
            Word::Resume => self.stalled = false,
            Word::HalfOpen => {
                self.trouble = Some(Trouble::HalfOpen);
                self.half_opens += 1;
            }
            Word::Cut => {
                self.trouble = Some(Trouble::Cut);
                self.cuts += 1;
            }
            Word::Heal => self.trouble = None,
        }
    }

    /// The fate now of a connection that was accepted when the link was `born`.
    pub(crate) fn fate(&self, born: &Self) -> Fate {
        if self.cuts != born.cuts || born.trouble == Some(Trouble::Cut) {
            Fate::Reset
        } else if self.half_opens != born.half_opens || born.trouble == Some(Trouble::HalfOpen) {
            Fate::Dead
        } else if self.stalled {
            Fate::Stalled
        } else {
            Fate::Forwarded
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(words: &[Word]) -> Link {
        let mut link = Link::default();
        words.iter().for_each(|word| link.apply(*word));
        link
    }

    #[test]
    fn fates_follow_the_words_since_the_accept() {
        use Word::{Cut, HalfOpen, Heal, Resume, Stall};
        for (before, since, fate) in [
            (&[][..], &[][..], Fate::Forwarded),
            (&[], &[Stall], Fate::Stalled),
            (&[Stall], &[], Fate::Stalled),
            (&[Stall], &[Heal], Fate::Stalled),
            (&[Stall], &[Resume], Fate::Forwarded),
            (&[], &[HalfOpen], Fate::Dead),
            (&[], &[HalfOpen, Heal], Fate::Dead),
            (&[HalfOpen], &[], Fate::Dead),
            (&[HalfOpen], &[Heal], Fate::Dead),
            (&[HalfOpen, Heal], &[], Fate::Forwarded),
            (&[HalfOpen, Heal], &[Stall, HalfOpen], Fate::Dead),
            (&[], &[Cut], Fate::Reset),
            (&[], &[Cut, Heal], Fate::Reset),
            (&[Cut], &[], Fate::Reset),
            (&[Cut], &[Resume], Fate::Reset),
            (&[Cut, Heal], &[], Fate::Forwarded),
            (&[], &[HalfOpen, Cut], Fate::Reset),
            (&[], &[Cut, HalfOpen], Fate::Reset),
        ] {
            let now = after(&[before, since].concat());
            assert_eq!(now.fate(&after(before)), fate, "{before:?} | {since:?}");
        }
    }

    #[test]
    fn every_word_is_read_as_it_is_written() {
        for word in Word::ALL {
            assert_eq!(word.to_string().parse(), Ok(word));
        }
        let error = "halfopen".parse::<Word>().unwrap_err();
        assert_eq!(error, "\"halfopen\" is not known; say one of stall, resume, half-open, heal, cut");
    }
}
