// Package miosa is the domain: the nouns of the platform, their IDs, their
// states with the legal transitions, and the one error type. It imports the
// standard library only and has no effects; clocks and randomness come in as
// arguments.
package miosa
