package watch

import (
	"cmp"
	"fmt"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// ClientOptions say how to reach the API server.
type ClientOptions struct {
	Kubeconfig string // file
	Master     string // address; beats the kubeconfig's
	// ContentType of what we send, AcceptContentTypes of what we are sent. Empty: protobuf, or JSON where there
	// is none.
	ContentType, AcceptContentTypes string

	QPS     float32
	Burst   int
	Version string // ours, for the user agent
}

// NewClient returns a client. It sends nothing yet. With neither kubeconfig nor
// master it is that of the pod's service account, which reaches the API server through the ClusterIP
// of Service default/kubernetes: on a node whose ClusterIPs we serve ourselves that is not there before
// we are, so name the API server's own address there (kubeconfig, --master or KUBERNETES_SERVICE_HOST).
func NewClient(o ClientOptions) (kubernetes.Interface, error) {
	config, err := restConfig(o)
	if err != nil {
		return nil, err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make Kubernetes client: %w", err)
	}
	return client, nil
}

func restConfig(o ClientOptions) (*rest.Config, error) {
	var config *rest.Config
	var err error
	if o.Kubeconfig == "" && o.Master == "" {
		if config, err = rest.InClusterConfig(); err != nil {
			return nil, fmt.Errorf("configure Kubernetes client: neither kubeconfig nor master is given: %w", err)
		}
	} else if config, err = clientcmd.BuildConfigFromFlags(o.Master, o.Kubeconfig); err != nil {
		return nil, fmt.Errorf("configure Kubernetes client: kubeconfig %q, master %q: %w", o.Kubeconfig, o.Master, err)
	}
	config.ContentType = cmp.Or(o.ContentType, runtime.ContentTypeProtobuf)
	config.AcceptContentTypes = o.AcceptContentTypes
	if o.AcceptContentTypes == "" && config.ContentType == runtime.ContentTypeProtobuf {
		config.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	}
	config.QPS, config.Burst = o.QPS, o.Burst
	config.UserAgent = "svcproxy/" + o.Version
	return config, nil
}
