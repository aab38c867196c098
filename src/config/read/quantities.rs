//! Numbers with a unit: durations and sizes.

use std::time::Duration;

use toml::de::DeValue;

use super::{Reader, last};
use crate::config::keys::Key;
use crate::config::tree::Written;
use crate::config::units::{self, UnitError, show_duration, show_size};

/// How one kind of them is written.
pub(super) struct Quantity<T> {
    /// `duration`.
    name: &'static str,
    /// `a duration such as "5s"`.
    example: &'static str,
    /// `units are ms, s, m, h`.
    units: &'static str,
    read: fn(&str) -> Result<T, UnitError>,
    show: fn(T) -> String,
    /// What to write for a number without a unit.
    bare: fn(u64) -> UnitError,
    /// What to write for one with a fraction.
    fraction: fn(&str) -> UnitError,
}

pub(super) const TIME: Quantity<Duration> = Quantity {
    name: "duration",
    example: "a duration such as \"5s\"",
    units: "units are ms, s, m, h",
    read: units::duration,
    show: show_duration,
    bare: units::bare_duration,
    fraction: units::fraction,
};

pub(super) const SIZE: Quantity<u64> = Quantity {
    name: "size",
    example: "a size such as \"16MiB\"",
    units: "units are B, KiB, MiB, GiB, TiB",
    read: units::size,
    show: show_size,
    bare: units::bare_size,
    fraction: units::fraction_of_size,
};

/// What a key takes.
pub(super) struct Bounds<T> {
    pub(super) min: T,
    pub(super) max: T,
    /// Also "off".
    pub(super) off: bool,
}

impl<T: Copy + PartialOrd + Default> Bounds<T> {
    fn contain(&self, number: T) -> bool {
        (self.min..=self.max).contains(&number)
    }

    /// Why what is written at `name` is not taken, and what would be.
    fn refusal(&self, of: &Quantity<T>, name: &str, read: Result<T, UnitError>, range: &str) -> (String, String) {
        let takes = format!("it takes {range}");
        match read {
            Ok(number) if number == T::default() && self.off => {
                (format!("`{name}` is 0: write \"off\" to switch it off"), takes)
            }
            Ok(number) => {
                let range = format!("{} to {}", (of.show)(self.min), (of.show)(self.max));
                (format!("`{name}` is {}, and must be {range}", (of.show)(number)), String::new())
            }
            Err(UnitError::Negative) if self.off => {
                (format!("`{name}` is negative: write \"off\" to switch it off"), takes)
            }
            Err(error @ UnitError::Negative) => (format!("`{name}` {error}"), takes),
            Err(error) => (format!("`{name}` {error}"), of.units.to_owned()),
        }
    }
}

impl Reader<'_> {
    /// What is written for a key, `Some(None)` for "off". `None`: it is wrong, and that has been told.
    pub(super) fn quantity<T: Copy + PartialOrd + Default>(
        &mut self,
        of: &Quantity<T>,
        bounds: &Bounds<T>,
        key: &Key,
        written: &Written<'_>,
    ) -> Option<Option<T>> {
        let (name, span) = (last(key.name()), &written.value.span());
        let read = match written.value.get_ref() {
            DeValue::Integer(number) => match i128::from_str_radix(number.as_str(), number.radix()) {
                Ok(0) => Ok(T::default()),
                Ok(number) if number < 0 => Err(UnitError::Negative),
                Ok(number) => Err(u64::try_from(number).map_or(UnitError::NoUnit(None), of.bare)),
                Err(_) => Err(UnitError::NoUnit(None)),
            },
            DeValue::Float(number) if number.as_str().starts_with('-') => Err(UnitError::Negative),
            DeValue::Float(number) => Err(match (of.fraction)(number.as_str()) {
                UnitError::Fraction(meant) => UnitError::NoUnit(meant),
                other => other,
            }),
            value => {
                let text = self.string(name, of.example, value, span)?;
                if text.value == "off" && bounds.off {
                    return Some(None);
                }
                if !text.is_plain() {
                    // Nothing of what a variable holds is repeated.
                    let read = (of.read)(&text.value).ok().filter(|number| bounds.contain(*number));
                    if read.is_none() {
                        let message = format!("`{name}` from {} is no {} it can take", text.quoted(), of.name);
                        self.error(span, message, format!("it takes {}", key.range()));
                    }
                    return read.map(Some);
                }
                match text.value.as_str() {
                    "off" => {
                        let help = format!("it takes {}", key.range());
                        self.error(span, format!("`{name}` cannot be switched off"), help);
                        return None;
                    }
                    "0" => Ok(T::default()),
                    text => (of.read)(text),
                }
            }
        };
        match read {
            Ok(number) if bounds.contain(number) => Some(Some(number)),
            read => {
                let (message, help) = bounds.refusal(of, name, read, &key.range());
                self.error(span, message, help);
                None
            }
        }
    }
}
