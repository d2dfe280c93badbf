package testenv

import (
	"context"
	"fmt"
	"time"
)

// TB is what we need of a testing.TB; the demo is no test.
type TB interface {
	Helper()
	Context() context.Context
	Cleanup(func())
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Logf(format string, args ...any)
}

// MustNew makes a cluster that is closed with the test.
func MustNew(t TB, o Options) *Cluster {
	t.Helper()
	c, err := New(t.Context(), o)
	if err != nil {
		t.Fatalf("cluster: %v", err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("close cluster: %v", err)
		}
	})
	return c
}

// Eventually calls f until it returns nil, and returns f's last error if ctx ends before.
func Eventually(ctx context.Context, f func(context.Context) error) error {
	const interval = 10 * time.Millisecond
	for {
		err := f(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		case <-time.After(interval):
		}
	}
}
