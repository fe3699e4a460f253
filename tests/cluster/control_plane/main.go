// One program, several personalities: etcd, a Kubernetes control plane and kubectl, as tests run them.
//
// The personality is the name that it was started by, or else the first argument:
//
//	control_plane kube-apiserver --help
//	ln -s control_plane kubectl; ./kubectl version
//
// Nothing of them is changed. They are one program because they share most of their code, which then is
// compiled, linked and kept in memory once.
package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	kubectl "k8s.io/kubectl/pkg/cmd"
	kubectlutil "k8s.io/kubectl/pkg/cmd/util"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"

	_ "time/tzdata" // time zones of CronJobs

	_ "k8s.io/client-go/plugin/pkg/client/auth"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
)

var personalities = map[string]func(arguments []string){
	"etcd":                    etcdmain.Main,
	"kube-apiserver":          run(apiserver.NewAPIServerCommand),
	"kube-controller-manager": run(controllers.NewControllerManagerCommand),
	"kube-scheduler":          run(func() *cobra.Command { return scheduler.NewSchedulerCommand() }),
	"kubectl":                 runKubectl,
}

func run(newCommand func() *cobra.Command) func([]string) {
	return func(arguments []string) {
		os.Args = arguments
		os.Exit(cli.Run(newCommand()))
	}
}

func runKubectl(arguments []string) {
	os.Args = arguments // before the command is made: it looks for plugins there
	if err := cli.RunNoErrOutput(kubectl.NewDefaultKubectlCommand()); err != nil {
		kubectlutil.CheckErr(err)
	}
}

func main() {
	for _, arguments := range [][]string{os.Args, os.Args[1:]} {
		if len(arguments) > 0 {
			if personality := personalities[filepath.Base(arguments[0])]; personality != nil {
				personality(arguments)
				return
			}
		}
	}
	names := slices.Sorted(maps.Keys(personalities))
	fmt.Fprintln(os.Stderr, "usage: control_plane PERSONALITY [ARGUMENT...]; one of", names)
	os.Exit(2)
}
