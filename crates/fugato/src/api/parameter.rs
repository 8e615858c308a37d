//! Request parameters: the few that mean something here, the ones of extensions that are
//! refused by name, and everything else, which Triton hands to a backend and ONNX models
//! have no use for.

use crate::error::{Fault, InferError};
use crate::shm::RegionRange;
use fugato_core::{Nanos, Timestamp};
use std::fmt;

/// A parameter's value, as either protocol carries it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum ParameterValue<'a> {
    /// A boolean.
    Bool(bool),
    /// An integer of any sign; wide enough for both 64-bit kinds.
    Integer(i128),
    /// A number with a fraction or exponent.
    Double(f64),
    /// A string.
    Text(&'a str),
}

impl fmt::Display for ParameterValue<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => write!(f, "{value}"),
            Self::Integer(value) => write!(f, "{value}"),
            Self::Double(value) => write!(f, "{value}"),
            Self::Text(value) => write!(f, "`{value}`"),
        }
    }
}

/// The parameters of a whole request that this server knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RequestParameters {
    /// `slo_us`: the request's own objective, from its arrival.
    pub(crate) slo: Option<Nanos>,
    /// `timeout`, in microseconds: the longest wait in the queue. Triton's 0 is "none".
    pub(crate) queue_timeout: Option<Nanos>,
    /// `priority`: 1 is the highest, 0 the model's default.
    pub(crate) priority: u64,
    /// `binary_data_output` (HTTP): every output as binary unless it says otherwise.
    pub(crate) binary_outputs: bool,
}

impl RequestParameters {
    /// Takes one parameter of the request.
    ///
    /// # Errors
    /// A known parameter of a wrong type or sign, and the sequence extension.
    pub(crate) fn set(&mut self, name: &str, value: ParameterValue<'_>) -> Result<(), InferError> {
        match name {
            "slo_us" => {
                let micros = positive("slo_us", value, "a whole number of microseconds above 0")?;
                if micros == 0 {
                    return Err(wrong(
                        "slo_us",
                        value,
                        "a whole number of microseconds above 0",
                    ));
                }
                self.slo = Some(Nanos::from_micros(micros));
            }
            "timeout" => {
                let micros = positive("timeout", value, "a whole number of microseconds")?;
                self.queue_timeout = (micros > 0).then(|| Nanos::from_micros(micros));
            }
            "priority" => self.priority = positive("priority", value, "a whole number")?,
            "binary_data_output" => {
                self.binary_outputs =
                    boolean(|| "the request".to_owned(), "binary_data_output", value)?;
            }
            "sequence_id" | "sequence_start" | "sequence_end" if !means_none(value) => {
                return Err(Fault::Unimplemented {
                    what: format!("parameter `{name}` (the sequence extension)"),
                }
                .into());
            }
            _ => {}
        }
        Ok(())
    }

    /// The deadline of a request that arrived then: the earlier of `slo_us` and `timeout`,
    /// the protocol's own time limit, where it has one.
    pub(crate) fn deadline(self, arrived: Timestamp, timeout: Option<Nanos>) -> Option<Timestamp> {
        let limit = match (self.slo, timeout) {
            (Some(slo), Some(timeout)) => slo.min(timeout),
            (Some(only), None) | (None, Some(only)) => only,
            (None, None) => return None,
        };
        Some(arrived + limit)
    }
}

/// The parameters of one tensor that say which range of shared memory it is in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RegionParameters<'a> {
    region: Option<&'a str>,
    byte_size: Option<u64>,
    offset: Option<u64>,
}

impl<'a> RegionParameters<'a> {
    /// Takes one parameter of tensor `tensor` (`what` is "input" or "output"); others than
    /// those of shared memory pass.
    ///
    /// # Errors
    /// A parameter of shared memory of a wrong type or sign.
    pub(crate) fn set(
        &mut self,
        what: &str,
        tensor: &str,
        name: &str,
        value: ParameterValue<'a>,
    ) -> Result<(), InferError> {
        let (name, place) = match name {
            "shared_memory_region" => {
                let ParameterValue::Text(region) = value else {
                    let name = "shared_memory_region";
                    return Err(wrong_of(what, tensor, name, value, "a region's name"));
                };
                self.region = Some(region);
                return Ok(());
            }
            "shared_memory_byte_size" => ("shared_memory_byte_size", &mut self.byte_size),
            "shared_memory_offset" => ("shared_memory_offset", &mut self.offset),
            _ => return Ok(()),
        };
        let number = whole(value);
        let number =
            number.ok_or_else(|| wrong_of(what, tensor, name, value, "a whole number of bytes"));
        *place = Some(number?);
        Ok(())
    }

    /// The range that the parameters name, where they name one.
    ///
    /// # Errors
    /// A region without a size, or a size or offset without a region.
    pub(crate) fn range(
        self,
        what: &str,
        tensor: &str,
    ) -> Result<Option<RegionRange<'a>>, InferError> {
        let lacks = |name| Fault::Parameter {
            object: format!("{what} `{tensor}`"),
            name,
            found: "missing".to_owned(),
            expected: "it beside the other parameters of shared memory",
        };
        match (self.region, self.byte_size, self.offset) {
            (None, None, None) => Ok(None),
            (Some(region), Some(byte_size), offset) => Ok(Some(RegionRange {
                region,
                offset: offset.unwrap_or(0),
                byte_size,
            })),
            (Some(_), None, _) => Err(lacks("shared_memory_byte_size").into()),
            (None, ..) => Err(lacks("shared_memory_region").into()),
        }
    }
}

fn wrong_of(
    what: &str,
    tensor: &str,
    name: &'static str,
    value: ParameterValue<'_>,
    expected: &'static str,
) -> InferError {
    Fault::Parameter {
        object: format!("{what} `{tensor}`"),
        name,
        found: value.to_string(),
        expected,
    }
    .into()
}

/// How many classes parameter `classification` of an output asks for; 0 asks for the tensor.
///
/// # Errors
/// Anything but a whole number of 32 bits.
pub(crate) fn classes(output: &str, value: ParameterValue<'_>) -> Result<u32, InferError> {
    let number = match value {
        ParameterValue::Integer(number) => u32::try_from(number).ok(),
        ParameterValue::Bool(_) | ParameterValue::Double(_) | ParameterValue::Text(_) => None,
    };
    number.ok_or_else(|| {
        Fault::Parameter {
            object: format!("output `{output}`"),
            name: "classification",
            found: value.to_string(),
            expected: "a whole number of classes",
        }
        .into()
    })
}

/// The value of boolean parameter `name`; `object` says whose it is, for a message.
pub(crate) fn boolean(
    object: impl Fn() -> String,
    name: &'static str,
    value: ParameterValue<'_>,
) -> Result<bool, InferError> {
    match value {
        ParameterValue::Bool(value) => Ok(value),
        ParameterValue::Integer(_) | ParameterValue::Double(_) | ParameterValue::Text(_) => {
            Err(Fault::Parameter {
                object: object(),
                name,
                found: value.to_string(),
                expected: "true or false",
            }
            .into())
        }
    }
}

fn positive(
    name: &'static str,
    value: ParameterValue<'_>,
    expected: &'static str,
) -> Result<u64, InferError> {
    whole(value).ok_or_else(|| wrong(name, value, expected))
}

fn whole(value: ParameterValue<'_>) -> Option<u64> {
    match value {
        ParameterValue::Integer(number) => u64::try_from(number).ok(),
        ParameterValue::Bool(_) | ParameterValue::Double(_) | ParameterValue::Text(_) => None,
    }
}

fn wrong(name: &'static str, value: ParameterValue<'_>, expected: &'static str) -> InferError {
    Fault::Parameter {
        object: "the request".to_owned(),
        name,
        found: value.to_string(),
        expected,
    }
    .into()
}

/// Whether a value says "not used": 0, false or an empty string.
fn means_none(value: ParameterValue<'_>) -> bool {
    match value {
        ParameterValue::Bool(value) => !value,
        ParameterValue::Integer(value) => value == 0,
        ParameterValue::Double(value) => value == 0.0,
        ParameterValue::Text(value) => value.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn the_earliest_limit_is_the_deadline() {
        let arrived = Timestamp::from_nanos(1_000);
        let mut parameters = RequestParameters::default();
        assert_eq!(parameters.deadline(arrived, None), None);
        parameters
            .set("slo_us", ParameterValue::Integer(5))
            .expect("5 us is an objective");
        let at = |nanos| Some(Timestamp::from_nanos(nanos));
        assert_eq!(parameters.deadline(arrived, None), at(6_000));
        let timeout = |nanos| Some(Nanos::new(nanos));
        assert_eq!(parameters.deadline(arrived, timeout(2_000)), at(3_000));
        assert_eq!(parameters.deadline(arrived, timeout(9_000)), at(6_000));
    }

    #[test]
    fn known_parameters_are_typed_and_unknown_ones_pass() {
        let cases = [
            (
                "slo_us",
                ParameterValue::Integer(0),
                ErrorKind::InvalidValue,
            ),
            (
                "slo_us",
                ParameterValue::Integer(-1),
                ErrorKind::InvalidValue,
            ),
            ("slo_us", ParameterValue::Text("5"), ErrorKind::InvalidValue),
            (
                "timeout",
                ParameterValue::Double(1.5),
                ErrorKind::InvalidValue,
            ),
            (
                "priority",
                ParameterValue::Bool(true),
                ErrorKind::InvalidValue,
            ),
            (
                "binary_data_output",
                ParameterValue::Integer(1),
                ErrorKind::InvalidValue,
            ),
            (
                "sequence_id",
                ParameterValue::Integer(7),
                ErrorKind::Unimplemented,
            ),
        ];
        for (name, value, kind) in cases {
            let error = RequestParameters::default()
                .set(name, value)
                .expect_err(name);
            assert_eq!(error.kind(), kind, "{name}: {error}");
            assert!(error.to_string().contains(name), "{error}");
        }
        let mut parameters = RequestParameters::default();
        for (name, value) in [
            ("timeout", ParameterValue::Integer(0)),
            ("sequence_id", ParameterValue::Integer(0)),
            ("my_own", ParameterValue::Text("x")),
        ] {
            parameters.set(name, value).expect(name);
        }
        assert_eq!(parameters, RequestParameters::default());
    }
}
