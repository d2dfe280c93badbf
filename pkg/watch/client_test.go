package watch

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"

	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
)

// TestClient looks at a real request and answers it in protobuf.
func TestClient(t *testing.T) {
	var header http.Header
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header = r.Header
		list := &corev1.ServiceList{Items: []corev1.Service{*web(nil)}}
		list.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("ServiceList"))
		w.Header().Set("Content-Type", "application/vnd.kubernetes.protobuf")
		if err := protobuf.NewSerializer(scheme.Scheme, scheme.Scheme).Encode(list, w); err != nil {
			t.Error(err)
		}
	}))
	defer server.Close()
	client, err := NewClient(ClientOptions{Master: server.URL, Version: "1.2.3", QPS: 5, Burst: 10})
	if err != nil {
		t.Fatal(err)
	}
	list, err := client.CoreV1().Services("").List(context.Background(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(list.Items) != 1 || list.Items[0].Name != "web" {
		t.Errorf("got %v, want Service web", list.Items)
	}
	if got := header.Get("User-Agent"); got != "svcproxy/1.2.3" {
		t.Errorf("user agent is %q", got)
	}
	if got := header.Get("Accept"); !strings.HasPrefix(got, "application/vnd.kubernetes.protobuf,") {
		t.Errorf("accepts %q, want protobuf first", got)
	}
}

func TestClientContentTypes(t *testing.T) {
	const protobuf, json = "application/vnd.kubernetes.protobuf", "application/json"
	for _, tt := range []struct{ content, accept, wantContent, wantAccept string }{
		{"", "", protobuf, protobuf + "," + json},
		{protobuf, "", protobuf, protobuf + "," + json},
		{json, "", json, ""}, // accepts what it sends
		{json, protobuf, json, protobuf},
	} {
		config, err := restConfig(ClientOptions{Master: "https://192.0.2.1", ContentType: tt.content, AcceptContentTypes: tt.accept})
		if err != nil {
			t.Fatal(err)
		}
		if config.ContentType != tt.wantContent || config.AcceptContentTypes != tt.wantAccept {
			t.Errorf("%q, %q: sends %q, accepts %q", tt.content, tt.accept, config.ContentType, config.AcceptContentTypes)
		}
	}
}

func TestClientConfig(t *testing.T) {
	kubeconfig := filepath.Join(t.TempDir(), "config")
	text := "apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: https://192.0.2.1:6443}}]\n" +
		"contexts: [{name: c, context: {cluster: c}}]\ncurrent-context: c\n"
	if err := os.WriteFile(kubeconfig, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("KUBERNETES_SERVICE_HOST", "") // not in a cluster
	for _, tt := range []struct {
		name    string
		options ClientOptions
		host    string
		err     string
	}{
		{name: "kubeconfig", options: ClientOptions{Kubeconfig: kubeconfig, QPS: 7, Burst: 9}, host: "https://192.0.2.1:6443"},
		{name: "master beats it", options: ClientOptions{Kubeconfig: kubeconfig, Master: "https://192.0.2.2"}, host: "https://192.0.2.2"},
		{name: "neither, outside", err: "neither kubeconfig nor master is given"},
		{name: "no such file", options: ClientOptions{Kubeconfig: kubeconfig + "x"}, err: kubeconfig + "x"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			config, err := restConfig(tt.options)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("error is %v, want one with %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if config.Host != tt.host || config.QPS != tt.options.QPS || config.Burst != tt.options.Burst {
				t.Errorf("host %s, QPS %v, burst %d", config.Host, config.QPS, config.Burst)
			}
		})
	}
}
