//! `wharf node cordon`, `uncordon`, `drain` and `remove`.

use super::args::NodeCommand;
use super::context::Context;
use super::duration::duration;
use super::exit_code::OK;
use super::fail::Failure;
use super::patience::{Pace, Silence};
use super::signals::interrupted;
use crate::api::ControllerApi;
use crate::domain::command::Error;
use crate::domain::node::NodeChange;
use crate::domain::view::NodeView;

/// Does what was asked of a node, and says what came of it.
pub async fn change(context: &Context, command: NodeCommand) -> Result<u8, Failure> {
    let (node, change, wait) = match command {
        NodeCommand::Show { node } => return super::node::show(context, &node).await,
        NodeCommand::Check { node, gpus, deep } => return super::node_check::check(context, &node, gpus, deep).await,
        NodeCommand::Cordon { node, reason } => (node, NodeChange::Cordon { reason }, false),
        NodeCommand::Uncordon { node } => (node, NodeChange::Uncordon, false),
        NodeCommand::Drain { node, reason, deadline, wait } => {
            let deadline = deadline.as_deref().map(|text| duration("--deadline", text)).transpose()?;
            (node, NodeChange::Drain { reason, deadline }, wait)
        }
        NodeCommand::Remove { node, force } => (node, NodeChange::Remove { force }, false),
    };
    let controller = context.controller()?;
    let removes = matches!(change, NodeChange::Remove { .. });
    let mut view = controller.change_node(&context.who, &node, change).await?;
    if wait && view.standing != DRAINED {
        if !context.json {
            context.remark(&sentence(&view));
        }
        view = tokio::select! {
            drained = until_drained(&*controller, context, &node) => drained?,
            failure = interrupted() => return Err(failure),
        };
    }
    if context.json {
        context.print_json(&view)?;
    } else if removes {
        context.print(&format!("node {node} is removed\n"))?;
    } else {
        context.print(&format!("{}\n", sentence(&view)))?;
    }
    Ok(OK)
}

const DRAINED: &str = "DRAINED";

/// Also over a restart of the controller. The drain goes on whether anybody waits or not.
async fn until_drained(controller: &dyn ControllerApi, context: &Context, node: &str) -> Result<NodeView, Error> {
    let (mut silence, mut pace) = (Silence::new(context), Pace::new());
    loop {
        match controller.describe_node(&context.who, node).await {
            Ok(detail) if detail.node.standing == DRAINED => return Ok(detail.node),
            Ok(detail) if detail.node.standing != "DRAINING" => {
                let message = format!("node {node} is {} again: somebody has ended the drain", detail.node.standing);
                return Err(Error::refused(message));
            }
            Ok(_) => silence.heard(),
            Err(error) => silence.bear(error)?,
        }
        tokio::time::sleep(pace.step()).await;
    }
}

fn sentence(node: &NodeView) -> String {
    let mut text = format!("node {} is {}", node.name, node.standing);
    if node.state != node.standing {
        text.push_str(&format!(", and {}", node.state));
    }
    if node.standing == "DRAINING" {
        let tasks = if node.tasks_held == 1 { "task" } else { "tasks" };
        text.push_str(&format!(": {} {tasks} to go", node.tasks_held));
        if let Some(deadline) = node.deadline {
            text.push_str(&format!(", moved at {}", deadline.to_rfc3339()));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::time::Timestamp;

    #[test]
    fn the_sentence_says_what_is_left() {
        let ready =
            NodeView { name: "n1".into(), state: "READY".into(), standing: "READY".into(), ..NodeView::default() };
        assert_eq!(sentence(&ready), "node n1 is READY");
        let draining = NodeView {
            state: "UNREACHABLE".into(),
            standing: "DRAINING".into(),
            tasks_held: 2,
            deadline: Some(Timestamp(0)),
            ..ready
        };
        assert_eq!(
            sentence(&draining),
            "node n1 is DRAINING, and UNREACHABLE: 2 tasks to go, moved at 1970-01-01T00:00:00.000Z"
        );
    }
}
