package bpf

import "errors"

// ErrFull is returned (wrapped) when a table has reached its limit.
var ErrFull = errors.New("table is full")
