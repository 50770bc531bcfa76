-- Health of meshfed's kinds for Argo CD, one script for all of them: it reads Ready, Stalled and Reconciling.
-- resource.customizations.health.federation.meshfed.io_<Kind>: <this file>
local hs = { status = "Progressing", message = "the agent has not said anything of it yet" }
if obj.status == nil or obj.status.conditions == nil then
  return hs
end
if obj.metadata.generation ~= nil and obj.status.observedGeneration ~= nil
    and obj.status.observedGeneration < obj.metadata.generation then
  hs.message = "the latest generation is not judged yet"
  return hs
end
for _, condition in ipairs(obj.status.conditions) do
  if condition.type == "Stalled" and condition.status == "True" then
    return { status = "Degraded", message = condition.message }
  end
end
for _, condition in ipairs(obj.status.conditions) do
  if condition.type == "Ready" then
    if condition.status == "True" then
      return { status = "Healthy", message = condition.message }
    end
    hs.message = condition.message
  end
end
return hs
