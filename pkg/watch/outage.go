package watch

import (
	"context"
	"log/slog"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// outage tells the beginning and the end of a time in which one resource cannot be read from the API
// server, and not the retries between.
type outage struct {
	resource string
	optional bool // not to have it is no error
	log      *slog.Logger

	mu    sync.Mutex
	since time.Time // zero: there is none
}

// observe takes the result of a request.
func (o *outage) observe(ctx context.Context, err error) {
	if ctx.Err() != nil || ordinary(err) {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case err != nil && o.since.IsZero():
		o.since = time.Now()
		level := slog.LevelError
		if o.optional && apierrors.IsNotFound(err) {
			level = slog.LevelInfo
		}
		o.log.Log(ctx, level, "cannot read from the API server: going on with what is known", "resource", o.resource, "error", err)
	case err == nil && !o.since.IsZero():
		o.log.Info("reading from the API server again", "resource", o.resource, "after", time.Since(o.since))
		o.since = time.Time{}
	}
}

// ordinary reports whether err is part of the protocol: the server has forgotten the version to go on
// from, or is too old to stream a list. The reflector knows what to do.
func ordinary(err error) bool {
	return apierrors.IsResourceExpired(err) || apierrors.IsGone(err) || apierrors.IsInvalid(err)
}
