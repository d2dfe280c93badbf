package main

import (
	"context"
	"log/slog"

	"k8s.io/client-go/kubernetes"

	"github.com/svcproxy/svcproxy/pkg/config"
	"github.com/svcproxy/svcproxy/pkg/watch"
)

// connect returns a client of the API server, and the recorder of Events there; neither where manifests take
// its place. The recorder has a client, and with it a rate limit, of its own. It ends with ctx.
func connect(ctx context.Context, c *config.Config, log *slog.Logger) (kubernetes.Interface, *recorder, error) {
	if c.Manifests != "" {
		return nil, nil, nil
	}
	client, err := newClient(c)
	if err != nil {
		return nil, nil, err
	}
	another, err := newClient(c)
	if err != nil {
		return nil, nil, err
	}
	events, err := newRecorder(ctx, another, c.Node, log)
	if err != nil {
		return nil, nil, err
	}
	return client, events, nil
}

func newClient(c *config.Config) (kubernetes.Interface, error) {
	connection := c.Proxy.ClientConnection
	return watch.NewClient(watch.ClientOptions{
		Kubeconfig: connection.Kubeconfig, Master: c.Master, QPS: connection.QPS, Burst: int(connection.Burst), Version: version,
		ContentType: connection.ContentType, AcceptContentTypes: connection.AcceptContentTypes,
	})
}
