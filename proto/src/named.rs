//! Enums whose values have a name. One list gives the type, its values, their texts and their counterparts in messages.

/// Defines an enum with `ALL`, `as_str`, `Display`, `FromStr`, and conversions from and to the enum of the same name in
/// [`crate::pb`]. A value that either side lacks does not compile.
macro_rules! named_enum {
    ($(#[$meta:meta])* pub enum $name:ident { $($(#[$about:meta])* $value:ident = $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$about])* $value,)+ }

        impl $name {
            /// Every value, in order.
            pub const ALL: [Self; [$($text),+].len()] = [$(Self::$value),+];

            /// Its name in files and messages to people.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$value => $text,)+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = ();

            /// The inverse of `as_str`.
            fn from_str(text: &str) -> Result<Self, ()> {
                Self::ALL.into_iter().find(|value| value.as_str() == text).ok_or(())
            }
        }

        impl From<$name> for crate::pb::$name {
            fn from(value: $name) -> Self {
                match value { $($name::$value => Self::$value,)+ }
            }
        }

        impl TryFrom<crate::pb::$name> for $name {
            type Error = ();

            fn try_from(value: crate::pb::$name) -> Result<Self, ()> {
                match value {
                    crate::pb::$name::Unspecified => Err(()),
                    $(crate::pb::$name::$value => Ok(Self::$value),)+
                }
            }
        }
    };
}

pub(crate) use named_enum;
