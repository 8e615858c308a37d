//! What a setting is, and what a list of settings is made into.

use super::choices::{
    CudnnSearch, DeviceKind, LogFormat, ModelControlMode, ModelDevice, PlanLanes, Policy,
    Precision, Supervise,
};
use crate::config::units::{ByteSize, Cores, Span};
use fugato_core::policy::OperatingPoint;
use serde::Serialize;
use std::net::IpAddr;
use std::path::PathBuf;

/// One setting, for documentation and for checks.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Its section: `server`.
    pub section: &'static str,
    /// Its key within the section: `http_port`.
    pub key: &'static str,
    /// What kind of value it takes, for people.
    pub kind: &'static str,
    /// Its default as TOML, or what happens where it is not set.
    pub default: fn() -> String,
    /// What it means and why its default is what it is.
    pub doc: &'static str,
}

impl Setting {
    /// Section and key: `server.http_port`.
    pub fn path(&self) -> String {
        format!("{}.{}", self.section, self.key)
    }

    /// The environment variable that sets it: `FUGATO_SERVER_HTTP_PORT`.
    pub fn variable(&self) -> String {
        variable(&self.path())
    }
}

/// The environment variable of a setting.
pub(in crate::config) fn variable(path: &str) -> String {
    match path {
        // The one variable a user sets by hand often enough to deserve a short name.
        "runtime.onnxruntime" => "FUGATO_ONNXRUNTIME".to_owned(),
        _ => format!("FUGATO_{}", path.replace('.', "_").to_uppercase()),
    }
}

/// What a value is called in the reference.
pub(super) trait Kind {
    const KIND: &'static str;
}

macro_rules! kinds {
    ($($type:ty: $kind:literal),* $(,)?) => {
        $(impl Kind for $type { const KIND: &'static str = $kind; })*
    };
}

kinds! {
    IpAddr: "IP address",
    PathBuf: "path",
    String: "text",
    bool: "`true` or `false`",
    f64: "number",
    i32: "whole number",
    u8: "whole number",
    u16: "whole number",
    u32: "whole number",
    u64: "whole number",
    Vec<u32>: "list of whole numbers",
    Vec<String>: "list of texts",
    Span: "length of time",
    ByteSize: "bytes",
    Cores: "`auto` or a list of cores",
    Policy: "`fifo`, `edf`, `edf-legs`, `temporal`, `uncontrolled`, `clipper`, `nexus`, `gslice`, `max-throughput`, `max-min`, `dstack` or `fugato`",
    OperatingPoint: "`efficacy`, `work`, `knee` or `published`",
    DeviceKind: "`auto`, `cpu` or `cuda`",
    ModelDevice: "`server`, `auto` or `cpu`",
    CudnnSearch: "`heuristic`, `exhaustive` or `fallback`",
    Precision: "`fp32` or `fp16`",
    ModelControlMode: "`none`, `poll` or `explicit`",
    LogFormat: "`text` or `json`",
    Supervise: "`auto`, `on` or `off`",
    PlanLanes: "`auto`, `on` or `off`",
}

/// `value` as TOML.
pub(in crate::config) fn shown(value: &impl Serialize) -> toml::Value {
    toml::Value::try_from(value)
        .unwrap_or_else(|error| toml::Value::String(format!("<cannot be shown: {error}>")))
}

macro_rules! section {
    (
        $(#[doc = $about:literal])+
        $section:literal $raw:ident => $resolved:ident in $settings:ident {
            $( $(#[doc = $doc:literal])+ $key:ident : $type:ty = $default:expr; )*
        }
        unset {
            $( $(#[doc = $odoc:literal])+ $okey:ident : $otype:ty = $unset:literal; )*
        }
    ) => {
        $(#[doc = $about])+
        ///
        /// As one source (file, environment or command line) gave it.
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $raw {
            $( $(#[doc = $doc])+ pub $key: Option<$type>, )*
            $( $(#[doc = $odoc])+ pub $okey: Option<$otype>, )*
        }

        $(#[doc = $about])+
        #[derive(Clone, Debug, PartialEq, Serialize)]
        pub struct $resolved {
            $( $(#[doc = $doc])+ pub $key: $type, )*
            $( $(#[doc = $odoc])+ pub $okey: Option<$otype>, )*
        }

        impl Default for $resolved {
            fn default() -> Self {
                Self { $( $key: $default, )* $( $okey: None, )* }
            }
        }

        impl $resolved {
            /// Takes each value from the first of `layers` that has it, else from `base`,
            /// and notes in `origins` where it came from.
            pub(super) fn resolve(
                prefix: &str,
                layers: &[Layer<'_, $raw>],
                base: &Self,
                origins: &mut Origins,
            ) -> Self {
                Self {
                    $( $key: origins
                        .pick(prefix, stringify!($key), layers, |raw| raw.$key.as_ref(), Some(&base.$key))
                        .unwrap_or_else(|| base.$key.clone()), )*
                    $( $okey: origins
                        .pick(prefix, stringify!($okey), layers, |raw| raw.$okey.as_ref(), base.$okey.as_ref()), )*
                }
            }
        }

        const $settings: &[Setting] = &[
            $( Setting {
                section: $section,
                key: stringify!($key),
                kind: <$type as Kind>::KIND,
                default: || { let value: $type = $default; format!("`{}`", shown(&value)) },
                doc: concat!($($doc, "\n"),+),
            }, )*
            $( Setting {
                section: $section,
                key: stringify!($okey),
                kind: <$otype as Kind>::KIND,
                default: || $unset.to_owned(),
                doc: concat!($($odoc, "\n"),+),
            }, )*
        ];
    };
}

pub(super) use section;
