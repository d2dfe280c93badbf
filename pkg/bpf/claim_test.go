package bpf

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A root is one claim's at a time; who waits for it gets it when it is free.
func TestClaimRoot(t *testing.T) {
	root := mustRoot(t)
	t.Cleanup(func() { os.RemoveAll(filepath.Dir(root)) })
	first, err := ClaimRoot(t.Context(), root, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ClaimRoot(t.Context(), root, 0); !errors.Is(err, ErrClaimed) || !strings.Contains(err.Error(), first.who) {
		t.Errorf("claimed twice: %v, want an error that names %s", err, first.who)
	}
	if who, err := Claimed(root); err != nil || who != first.who {
		t.Errorf("claimed by %q, %v, want %q", who, err, first.who)
	}
	if again, err := first.Renew(); err != nil || again {
		t.Errorf("renewed: %v, %v, want nothing to do", again, err)
	}
	if err := os.RemoveAll(root); err != nil {
		t.Fatal(err)
	}
	if again, err := first.Renew(); err != nil || !again {
		t.Errorf("renewed after removal: %v, %v", again, err)
	}
	if _, err := ClaimRoot(t.Context(), root, 0); !errors.Is(err, ErrClaimed) {
		t.Errorf("claimed twice after removal: %v", err)
	}

	waited := make(chan error)
	go func() {
		second, err := ClaimRoot(context.Background(), root, time.Hour)
		if err == nil {
			err = second.Release()
		}
		waited <- err
	}()
	if err := first.Release(); err != nil {
		t.Error(err)
	}
	if err := <-waited; err != nil {
		t.Errorf("who waited: %v", err)
	}
	if who, err := Claimed(root); err != nil || who != "" {
		t.Errorf("claimed by %q, %v after all have released it", who, err)
	}
}
